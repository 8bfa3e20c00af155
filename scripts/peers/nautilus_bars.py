"""nautilus_trader: its TimeBarAggregator at one minute, fed from the same JSON lines; sizes at its own precision."""

import sys

import msgspec
from nautilus_trader.common.component import TestClock
from nautilus_trader.core.datetime import millis_to_nanos
from nautilus_trader.data.aggregation import TimeBarAggregator
from nautilus_trader.model.data import BarSpecification, BarType, TradeTick
from nautilus_trader.model.enums import AggressorSide, BarAggregation, PriceType
from nautilus_trader.model.identifiers import InstrumentId, TradeId
from nautilus_trader.model.objects import Price, Quantity
from nautilus_trader.test_kit.providers import TestInstrumentProvider


class Row(msgspec.Struct):
    """What of a row goes into a bar."""

    instId: str
    tradeId: str
    px: str
    sz: str
    side: str
    ts: str


class Push(msgspec.Struct):
    """A push of trades."""

    data: list[Row]


decode = msgspec.json.Decoder(Push).decode
made: list = []
books: dict[str, tuple] = {}
for line in sys.stdin.buffer:
    for row in decode(line).data:
        known = books.get(row.instId)
        if known is None:
            instrument = TestInstrumentProvider.btcusdt_binance()
            clock = TestClock()
            clock.set_time(millis_to_nanos(int(row.ts)))
            kind = BarType(instrument.id, BarSpecification(1, BarAggregation.MINUTE, PriceType.LAST))
            maker = TimeBarAggregator(instrument, kind, made.append, clock)
            if hasattr(maker, "start_timer"):
                maker.start_timer()
            known = books[row.instId] = (InstrumentId.from_str(f"{row.instId}.OKX"), maker, clock)
        name, maker, clock = known
        at = millis_to_nanos(int(row.ts))
        for event in clock.advance_time(at):
            event.handle()
        side = AggressorSide.BUYER if row.side == "buy" else AggressorSide.SELLER
        maker.handle_trade_tick(
            TradeTick(name, Price(float(row.px), 8), Quantity(float(row.sz), 6), side, TradeId(row.tradeId), at, at)
        )
for bar in made:
    print(bar)
