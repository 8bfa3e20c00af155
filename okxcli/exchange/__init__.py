"""Everything that knows OKX: protocol and session (pure), normalisation, WebSocket, REST, instruments."""
