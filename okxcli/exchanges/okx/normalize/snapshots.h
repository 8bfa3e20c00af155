/* Pushes of small books and of tickers to lines of ours, as converters.py makes them. Each function takes the rest of a
   push behind its instrument, and says 0 where it is not exactly of the everyday form: one row, of few levels. */
#ifndef OKX_SNAPSHOTS_H
#define OKX_SNAPSHOTS_H

#include "../../../core/text.h"

/* What comes after the rows of a push. */
typedef struct {
    Span received, origin;
    int64_t received_ms;
} Tail;

static int tail_of(Cursor *c, Span channel, Tail *tail) {
    tail->received = (Span){NULL, 0};
    tail->received_ms = 0;
    tail->origin = channel;
    if (!LITERAL(c, "]")) return 0;
    int told = LITERAL(c, ",\"origin\":\"");
    if (told && (!label(c, &tail->origin) || !LITERAL(c, "\""))) return 0;
    if (LITERAL(c, ",\"received\":") && !moment(c, &tail->received, &tail->received_ms)) return 0;
    if (!told && LITERAL(c, ",\"origin\":\"") && (!label(c, &tail->origin) || !LITERAL(c, "\""))) return 0;
    return LITERAL(c, "}") && c->p == c->end;
}

static void put_received(Text *text, const Tail *tail) {
    PUT(text, ",\"received\":");
    if (tail->received_ms) PUT_SPAN(text, tail->received);
    else PUT(text, "null");
}

/* How the line of a book or ticker begins. */
static void put_head(Text *text, const char *kind, size_t size, Span symbol, Span time, const Tail *tail) {
    PUT(text, "{\"type\":\"");
    put(text, kind, size);
    PUT(text, "\",\"exchange\":\"okx\",\"symbol\":\"");
    PUT_SPAN(text, symbol);
    PUT(text, "\",\"timestamp\":");
    PUT_SPAN(text, time);
    put_received(text, tail);
}
#define PUT_HEAD(text, kind, symbol, time, tail) put_head(text, kind, sizeof(kind) - 1, symbol, time, tail)

/* Books */

#define LEVELS_MAX 10
/* What the line of a book comes to at most: its levels of two numbers each, and the words around them. */
#define BOOK_MAX (2 * LEVELS_MAX * (2 * (WHOLE_MAX + PLACES_MAX + 1) + 6) + 640)

typedef struct {
    Span price, size;
} Level;

typedef struct {
    Level levels[LEVELS_MAX];
    int count;
} Side;

/* Which of two prices is the higher one: above 0 if it is the first. */
static int higher(Span a, Span b) {
    const char *point_a = memchr(a.at, '.', (size_t)a.size), *point_b = memchr(b.at, '.', (size_t)b.size);
    int whole_a = point_a ? (int)(point_a - a.at) : a.size, whole_b = point_b ? (int)(point_b - b.at) : b.size;
    if (whole_a != whole_b) return whole_a - whole_b;
    int order = memcmp(a.at, b.at, (size_t)(a.size < b.size ? a.size : b.size));
    return order ? order : a.size - b.size;
}

/* The levels of a side, best first: prices that `rise` or fall. */
static int side_of(Cursor *c, Side *side, int rise) {
    Span span;
    int64_t number;
    side->count = 0;
    if (!LITERAL(c, "[")) return 0;
    if (LITERAL(c, "]")) return 1;
    do {
        if (side->count == LEVELS_MAX) return 0;
        Level *level = &side->levels[side->count];
        if (!LITERAL(c, "[\"") || !positive(c, &level->price) || !LITERAL(c, "\",\"")) return 0;
        if (!amount(c, &level->size) || !LITERAL(c, "\"")) return 0;
        while (LITERAL(c, ",\""))
            if (!whole(c, &span, &number) || !LITERAL(c, "\"")) return 0;
        if (!LITERAL(c, "]")) return 0;
        if (side->count) {
            int order = higher(level->price, level[-1].price);
            if (rise ? order <= 0 : order >= 0) return 0;
        }
        side->count++;
    } while (LITERAL(c, ","));
    return LITERAL(c, "]");
}

static void put_side(Text *text, const Side *side) {
    PUT(text, "[");
    for (int i = 0; i < side->count; i++) {
        if (i) PUT(text, ",");
        PUT(text, "[\"");
        PUT_SPAN(text, side->levels[i].price);
        PUT(text, "\",\"");
        PUT_SPAN(text, side->levels[i].size);
        PUT(text, "\"]");
    }
    PUT(text, "]");
}

static int book(Cursor *c, Span channel, Span symbol, int64_t now, Text *text) {
    enum { ASKS = 1, BIDS = 2, TIME = 4, SEQUENCE = 8, NAME = 16 };
    Side asks, bids;
    Span time = {NULL, 0}, sequence = {NULL, 0}, name;
    int64_t timestamp = 0, number;
    Tail tail;
    int seen = 0, key;
    if (!LITERAL(c, "{")) return 0;
    do {
        key = LITERAL(c, "\"asks\":")     ? ASKS
              : LITERAL(c, "\"bids\":")   ? BIDS
              : LITERAL(c, "\"ts\":\"")   ? TIME
              : LITERAL(c, "\"seqId\":")  ? SEQUENCE
              : LITERAL(c, "\"instId\":\"") ? NAME
                                          : 0;
        if (key == 0 || seen & key) return 0;
        seen |= key;
        if (key == ASKS && !side_of(c, &asks, 1)) return 0;
        if (key == BIDS && !side_of(c, &bids, 0)) return 0;
        if (key == TIME && (!moment(c, &time, &timestamp) || !LITERAL(c, "\""))) return 0;
        if (key == SEQUENCE && !whole(c, &sequence, &number)) return 0;
        if (key == NAME && (!symbol_name(c, &name) || !same(name, symbol) || !LITERAL(c, "\""))) return 0;
    } while (LITERAL(c, ","));
    if (!LITERAL(c, "}") || (seen & (ASKS | BIDS | TIME)) != (ASKS | BIDS | TIME)) return 0;
    if (!tail_of(c, channel, &tail) || !has_come(timestamp, tail.received_ms, now)) return 0;
    if (!reserve(text, BOOK_MAX)) return -1;
    PUT_HEAD(text, "book", symbol, time, &tail);
    PUT(text, ",\"seq_id\":");
    if (sequence.size) PUT_SPAN(text, sequence);
    else PUT(text, "null");
    PUT(text, ",\"bids\":");
    put_side(text, &bids);
    PUT(text, ",\"asks\":");
    put_side(text, &asks);
    PUT(text, ",\"origin\":\"");
    PUT_SPAN(text, tail.origin);
    PUT(text, "\"}\n");
    return 1;
}

/* Tickers */

enum { LAST, LAST_SIZE, BID, BID_SIZE, ASK, ASK_SIZE, OPEN, HIGH, LOW, VOLUME, TURNOVER, UTC0, UTC8, NUMBERS };
static const char *const NUMBER_KEYS[NUMBERS] = {
    "last\":\"",    "lastSz\":\"", "bidPx\":\"",  "bidSz\":\"",     "askPx\":\"",   "askSz\":\"",   "open24h\":\"",
    "high24h\":\"", "low24h\":\"", "vol24h\":\"", "volCcy24h\":\"", "sodUtc0\":\"", "sodUtc8\":\"",
};
#define TICKER_MAX (15 * (WHOLE_MAX + PLACES_MAX + 32) + 512)

/* The one of the numbers whose key comes next; -1 for none. They come in an order that is nearly always the same. */
static int number_key(Cursor *c) {
    for (int i = 0; i < NUMBERS; i++)
        if (literal(c, NUMBER_KEYS[i], strlen(NUMBER_KEYS[i]))) return i;
    return -1;
}

static void put_number(Text *text, const char *key, size_t size, Span number) {
    put(text, key, size);
    if (number.size == 0) {
        PUT(text, "null");
        return;
    }
    PUT(text, "\"");
    PUT_SPAN(text, number);
    PUT(text, "\"");
}
#define PUT_NUMBER(text, key, number) put_number(text, ",\"" key "\":", sizeof(",\"" key "\":") - 1, number)

static int ticker(Cursor *c, Span channel, Span symbol, int64_t now, Text *text) {
    enum { NAME = 1 << NUMBERS, KIND = 2 << NUMBERS, TIME = 4 << NUMBERS, ALL = NAME | KIND | TIME };
    static const Span none = {NULL, 0};
    Span numbers[NUMBERS], time = none, name;
    int64_t timestamp = 0;
    Tail tail;
    int seen = 0, spot = 0;
    for (int i = 0; i < NUMBERS; i++) numbers[i] = none;
    if (!LITERAL(c, "{")) return 0;
    do {
        int key;
        if (!LITERAL(c, "\"")) return 0;
        if (LITERAL(c, "instId\":\"")) {
            key = NAME;
            if (!symbol_name(c, &name) || !same(name, symbol)) return 0;
        } else if (LITERAL(c, "instType\":\"")) {
            key = KIND;
            spot = LITERAL(c, "SPOT") || LITERAL(c, "MARGIN");
            if (!spot && !LITERAL(c, "SWAP") && !LITERAL(c, "FUTURES") && !LITERAL(c, "OPTION")) return 0;
        } else if (LITERAL(c, "ts\":\"")) {
            key = TIME;
            if (!moment(c, &time, &timestamp)) return 0;
        } else {
            int which = number_key(c);
            if (which < 0) return 0;
            key = 1 << which;
            if (!(c->p < c->end && *c->p == '"') && !amount(c, &numbers[which])) return 0;
        }
        if (seen & key || !LITERAL(c, "\"")) return 0;
        seen |= key;
    } while (LITERAL(c, ","));
    if (!LITERAL(c, "}") || (seen & ALL) != ALL) return 0;
    if (!tail_of(c, channel, &tail) || !has_come(timestamp, tail.received_ms, now)) return 0;
    if (!reserve(text, TICKER_MAX)) return -1;
    PUT_HEAD(text, "ticker", symbol, time, &tail);
    PUT_NUMBER(text, "last", numbers[LAST]);
    PUT_NUMBER(text, "last_size", numbers[LAST_SIZE]);
    PUT_NUMBER(text, "bid", numbers[BID]);
    PUT_NUMBER(text, "bid_size", numbers[BID_SIZE]);
    PUT_NUMBER(text, "ask", numbers[ASK]);
    PUT_NUMBER(text, "ask_size", numbers[ASK_SIZE]);
    PUT_NUMBER(text, "open_24h", numbers[OPEN]);
    PUT_NUMBER(text, "high_24h", numbers[HIGH]);
    PUT_NUMBER(text, "low_24h", numbers[LOW]);
    PUT_NUMBER(text, "volume_24h", numbers[VOLUME]);
    PUT_NUMBER(text, "base_volume_24h", spot ? numbers[VOLUME] : numbers[TURNOVER]);
    PUT_NUMBER(text, "quote_volume_24h", spot ? numbers[TURNOVER] : none);
    PUT_NUMBER(text, "open_utc0", numbers[UTC0]);
    PUT_NUMBER(text, "open_utc8", numbers[UTC8]);
    PUT(text, "}\n");
    return 1;
}

#endif
