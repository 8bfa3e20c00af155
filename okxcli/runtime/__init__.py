"""What every command stands on: JSON lines on stdin and stdout, signals, configuration, logs, clock."""
