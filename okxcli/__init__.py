"""OKX market data as composable commands: a tape that can prove it is complete, candles that never leak the future."""

__version__ = "0.1.0"
