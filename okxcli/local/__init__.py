"""The local exchange: a server that a client cannot tell from OKX, and an oracle that shares no rule with the rest."""
