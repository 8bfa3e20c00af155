/* Pushes, a block at a time, to lines of ours: those of trades, small books and tickers that OKX sends every day, byte for
   byte as the Python road writes them. The first line that is not exactly such a push ends the call: it is the Python road's. */
#include "../../../core/module.h"

#include "snapshots.h"

/* What one row can come to at most: its parts are bounded, and so are the words around them. */
#define ROW_MAX 640

enum { INST = 1, ID = 2, PX = 4, SZ = 8, SIDE = 16, TS = 32, COUNT = 64, SOURCE = 128, SEQ = 256 };
#define NEEDED (INST | ID | PX | SZ | SIDE | TS)

typedef struct {
    Span id, price, size, side, time, count, source;
    int64_t timestamp;
} Row;

/* One value of a row, behind its key and colon; 0 where it is none of the usual, or the key came before. */
static int value(Cursor *c, int key, Row *row, Span symbol, int *seen) {
    int64_t number;
    Span span;
    if (*seen & key) return 0;
    *seen |= key;
    if (key == SEQ) return whole(c, &span, &number);
    if (!LITERAL(c, "\"")) return 0;
    switch (key) {
    case INST:
        if (!symbol_name(c, &span) || !same(span, symbol)) return 0;
        break;
    case ID:
        if (!whole(c, &row->id, &number) || number == 0) return 0;
        break;
    case PX:
        if (!positive(c, &row->price)) return 0;
        break;
    case SZ:
        if (!positive(c, &row->size)) return 0;
        break;
    case SIDE:
        row->side.at = c->p;
        if (!LITERAL(c, "buy") && !LITERAL(c, "sell")) return 0;
        row->side.size = (int)(c->p - row->side.at);
        break;
    case TS:
        if (!moment(c, &row->time, &row->timestamp)) return 0;
        break;
    case COUNT:
        if (!whole(c, &row->count, &number) || number == 0) return 0;
        break;
    default: /* SOURCE: empty where OKX says nothing */
        row->source = (Span){c->p, 0};
        if (c->p < c->end && *c->p == '"') break;
        if (!whole(c, &row->source, &number) || number >= 1000) return 0;
    }
    return LITERAL(c, "\"");
}

static int key_of(Cursor *c) {
    if (LITERAL(c, "tradeId\":")) return ID;
    if (LITERAL(c, "px\":")) return PX;
    if (LITERAL(c, "sz\":")) return SZ;
    if (LITERAL(c, "side\":")) return SIDE;
    if (LITERAL(c, "ts\":")) return TS;
    if (LITERAL(c, "source\":")) return SOURCE;
    if (LITERAL(c, "count\":")) return COUNT;
    if (LITERAL(c, "seqId\":")) return SEQ;
    if (LITERAL(c, "instId\":")) return INST;
    return 0;
}

static int row_of(Cursor *c, Span symbol, Row *row) {
    static const char one[] = "1";
    int seen = 0;
    row->count = (Span){one, 1};
    row->source = (Span){one, 0};
    if (!LITERAL(c, "{")) return 0;
    do {
        int key = LITERAL(c, "\"") ? key_of(c) : 0;
        if (key == 0 || !value(c, key, row, symbol, &seen)) return 0;
    } while (LITERAL(c, ","));
    if (!LITERAL(c, "}") || (seen & NEEDED) != NEEDED) return 0;
    /* A fill covers the ids id - count + 1 to id. */
    return row->count.size < row->id.size ||
           (row->count.size == row->id.size && memcmp(row->count.at, row->id.at, (size_t)row->id.size) <= 0);
}

static void write_row(Text *text, Span symbol, const Row *row, const Tail *tail) {
    PUT_AFTER(text, "{\"type\":\"trade\",\"exchange\":\"okx\",\"symbol\":\"", symbol);
    PUT_AFTER(text, "\",\"trade_id\":", row->id);
    PUT_AFTER(text, ",\"count\":", row->count);
    PUT_AFTER(text, ",\"side\":\"", row->side);
    PUT_AFTER(text, "\",\"price\":\"", row->price);
    PUT_AFTER(text, "\",\"size\":\"", row->size);
    PUT_AFTER(text, "\",\"timestamp\":", row->time);
    put_received(text, tail);
    PUT(text, ",\"source\":");
    if (row->source.size) PUT_SPAN(text, row->source);
    else PUT(text, "null");
    PUT_AFTER(text, ",\"origin\":\"", tail->origin);
    PUT(text, "\"}\n");
}

/* The rows of a push of trades: how many, 0 if they are not ours, -1 without memory. They are read twice where there are
   several, since what is said behind them goes into each. */
static int trades(Cursor c, Span channel, Span symbol, int64_t now, Text *text) {
    Tail tail;
    Row row;
    int rows = 0;
    Cursor first = c;
    do {
        if (!row_of(&c, symbol, &row)) return 0;
        rows++;
    } while (LITERAL(&c, ","));
    if (!tail_of(&c, channel, &tail)) return 0;
    size_t before = text->used;
    c = first;
    for (int i = 0; i < rows; i++) {
        if (rows > 1) {
            if (!row_of(&c, symbol, &row)) return 0;
            c.p += i + 1 < rows;
        }
        if (!has_come(row.timestamp, tail.received_ms, now)) {
            text->used = before;
            return 0;
        }
        if (!reserve(text, ROW_MAX)) return -1;
        write_row(text, symbol, &row, &tail);
    }
    return rows;
}

/* One line without its newline: the number of lines that it gave, 0 if it is not ours, -1 without memory. */
static int push(const char *start, const char *end, int64_t now, Text *text) {
    Cursor c = {start, end};
    Span channel, symbol;
    if (!LITERAL(&c, "{\"arg\":{\"channel\":\"")) return 0;
    channel.at = c.p;
    int fills = LITERAL(&c, "trades-all\"") || LITERAL(&c, "trades\"");
    int books = !fills && (LITERAL(&c, "books5\"") || LITERAL(&c, "bbo-tbt\""));
    if (!fills && !books && !LITERAL(&c, "tickers\"")) return 0;
    channel.size = (int)(c.p - channel.at) - 1;
    if (!LITERAL(&c, ",\"instId\":\"") || !symbol_name(&c, &symbol) || !LITERAL(&c, "\"},\"data\":[")) return 0;
    if (fills) return trades(c, channel, symbol, now, text);
    return books ? book(&c, channel, symbol, now, text) : ticker(&c, channel, symbol, now, text);
}

PyDoc_STRVAR(normalize_doc,
             "normalize(block, at, now_ms) -> (lines, made, next, taken)\n\n"
             "Turn the whole lines of a block from an offset on into lines of ours, up to the first that is no everyday push.\n"
             "`lines` are joined by newlines, `made` is how many they are, `taken` how many were read, up to `next`.");
static PyObject *normalize(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at;
    long long now;
    Text text = {NULL, 0, 0};
    Py_ssize_t taken = 0, made = 0;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nL", &block, &at, &now)) return NULL;
    const char *start = block.buf;
    if (!in_block(at, &block)) goto done;
    while (at < block.len) {
        const char *end = memchr(start + at, '\n', (size_t)(block.len - at));
        if (end == NULL) break;
        int rows = push(start + at, end, now, &text);
        if (rows < 0) {
            PyErr_NoMemory();
            goto done;
        }
        if (rows == 0) break;
        made += rows;
        taken++;
        at = end + 1 - start;
    }
    /* The last newline is the writer's. */
    result = Py_BuildValue("(y#nnn)", text.used ? text.start : "", text.used ? (Py_ssize_t)text.used - 1 : 0, made, at, taken);
done:
    PyMem_Free(text.start);
    PyBuffer_Release(&block);
    return result;
}

static PyMethodDef methods[] = {{"normalize", normalize, METH_VARARGS, normalize_doc}, {NULL, NULL, 0, NULL}};

KERNEL_MODULE(pushes, "Everyday pushes to lines of ours.", methods, NULL)
