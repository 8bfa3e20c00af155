/* Trade lines of single fills to rows of COPY's binary format, with what the ledger of ids wants to know of them. */
#include "../../core/module.h"

#include "../../core/fill.h"
#include "../../core/symbols.h"
#include "../../core/text.h"

/* What one row can come to at most: its parts are bounded. */
#define ROW_MAX 512
#define DAY_MS INT64_C(86400000)

/* Fills of one symbol and one UTC day whose ids follow on each other. */
typedef struct {
    int64_t symbol, first, last, low, high, step, day;
    Sum checksum;
    Text rows;
} Run;

typedef struct {
    Run *runs;
    int64_t *newest; /* of each symbol the number of its last run, -1 where it has none */
    size_t used, room, symbols;
} Runs;

/* A whole number, the highest byte first. */
static void put_whole(Text *text, int64_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; i--) text->start[text->used++] = (char)(uint8_t)((uint64_t)value >> (8 * i));
}

static void put_name(Text *text, Span name) {
    put_whole(text, name.size, 4);
    PUT_SPAN(text, name);
}

/* A timestamptz: microseconds since 2000. */
static void put_time(Text *text, int64_t ms) {
    put_whole(text, 8, 4);
    put_whole(text, (ms - INT64_C(946684800000)) * 1000, 8);
}

/* Up to four digits as a number; what lacks of them on the right is zeros. */
static int64_t quartet(const char *at, int size, int room) {
    int64_t found = 0;
    for (int i = 0; i < room; i++) found = found * 10 + (i < size ? at[i] - '0' : 0);
    return found;
}

/* A numeric: digits to the base of 10,000, with the weight of the first one, and the places as it was spelt. */
static void put_numeric(Text *text, Span number) {
    const char *point = memchr(number.at, '.', (size_t)number.size);
    int wholes = point == NULL ? number.size : (int)(point - number.at);
    int places = point == NULL ? 0 : number.size - wholes - 1, high = (wholes + 3) / 4, low = (places + 3) / 4;
    put_whole(text, 8 + 2 * (high + low), 4);
    put_whole(text, high + low, 2);
    put_whole(text, high - 1, 2);
    put_whole(text, 0, 2);
    put_whole(text, places, 2);
    int first = wholes - 4 * (high - 1);
    put_whole(text, quartet(number.at, first, first), 2);
    for (int at = first; at < wholes; at += 4) put_whole(text, quartet(number.at + at, 4, 4), 2);
    for (int at = 0; at < places; at += 4)
        put_whole(text, quartet(point + 1 + at, places - at < 4 ? places - at : 4, 4), 2);
}

static void put_null(Text *text) { put_whole(text, -1, 4); }

static void put_row(Text *text, const Fill *fill) {
    put_whole(text, 11, 2);
    put_name(text, fill->exchange);
    put_name(text, fill->symbol);
    put_whole(text, 8, 4);
    put_whole(text, fill->id, 8);
    put_whole(text, 8, 4);
    put_whole(text, 1, 8);
    put_name(text, fill->buy ? (Span){"buy", 3} : (Span){"sell", 4});
    put_numeric(text, fill->price);
    put_numeric(text, fill->size);
    put_time(text, fill->timestamp);
    if (fill->received) put_time(text, fill->received);
    else put_null(text);
    if (fill->source.size) {
        put_whole(text, 2, 4);
        put_whole(text, quartet(fill->source.at, fill->source.size, fill->source.size), 2);
    } else put_null(text);
    put_name(text, fill->origin);
}

/* Add a fill's part of the checksum, as storage/ledger/checksum.py says it: id * (price + 7919 size + time), the time
   negative where the taker sold. 0 where 128 bits do not hold it. */
static int add_checksum(Sum *sum, const Fill *fill) {
    Number price, size;
    Sum one = {fill->buy ? fill->timestamp : -fill->timestamp, 0};
    Wide product;
    return number_of(fill->price, &price) && number_of(fill->size, &size) && add(&one, price.mantissa, price.places) &&
           add(&one, (Wide)size.mantissa * 7919, size.places) &&
           !__builtin_mul_overflow(one.mantissa, (Wide)fill->id, &product) && add(sum, product, one.places);
}

/* The run that a fill goes into: its symbol's last one, or a new one. NULL without memory. */
static Run *run_for(Runs *runs, Symbols *symbols, const Fill *fill) {
    int64_t symbol = symbols_find(symbols, fill->exchange, fill->symbol);
    if (symbol < 0) {
        symbol = symbols_add(symbols, fill->exchange, fill->symbol);
        if (symbol < 0) return NULL;
        if (runs->symbols < symbols->room) {
            int64_t *newest = PyMem_Realloc(runs->newest, symbols->room * sizeof(int64_t));
            if (newest == NULL) return NULL;
            runs->newest = newest;
            runs->symbols = symbols->room;
        }
        runs->newest[symbol] = -1;
    }
    if (runs->newest[symbol] >= 0) {
        Run *run = &runs->runs[runs->newest[symbol]];
        if (fill->id == run->last + 1 && fill->timestamp / DAY_MS == run->day) return run;
    }
    if (runs->used == runs->room) {
        size_t room = runs->room ? runs->room * 2 : 16;
        Run *more = PyMem_Realloc(runs->runs, room * sizeof(Run));
        if (more == NULL) return NULL;
        runs->runs = more;
        runs->room = room;
    }
    runs->newest[symbol] = (int64_t)runs->used;
    Run *run = &runs->runs[runs->used++];
    memset(run, 0, sizeof *run);
    run->symbol = symbol;
    run->first = fill->id;
    run->low = run->high = fill->timestamp;
    run->day = fill->timestamp / DAY_MS;
    return run;
}

static int add_fill(Runs *runs, Symbols *symbols, const Fill *fill) {
    Run *run = run_for(runs, symbols, fill);
    if (run == NULL || !reserve(&run->rows, ROW_MAX)) {
        PyErr_NoMemory();
        return 0;
    }
    run->last = fill->id;
    if (fill->timestamp > run->high) run->high = fill->timestamp;
    else if (run->high - fill->timestamp > run->step) run->step = run->high - fill->timestamp;
    if (fill->timestamp < run->low) run->low = fill->timestamp;
    if (!add_checksum(&run->checksum, fill)) {
        PyErr_SetString(PyExc_OverflowError, "a checksum of more than 128 bits");
        return 0;
    }
    put_row(&run->rows, fill);
    return 1;
}

static PyObject *shown(const Runs *runs, const Symbols *symbols) {
    PyObject *list = PyList_New(0);
    if (list == NULL) return NULL;
    for (size_t i = 0; i < runs->used; i++) {
        const Run *run = &runs->runs[i];
        const Symbol *symbol = &symbols->symbols[run->symbol];
        char text[64], *sum;
        Wide mantissa = run->checksum.mantissa;
        sum = digits(mantissa < 0 ? -mantissa : mantissa, run->checksum.places, text);
        if (mantissa < 0) *--sum = '-';
        PyObject *one = Py_BuildValue(
            "(s#s#LLLLLLsy#)", symbol->text, (Py_ssize_t)symbol->exchange, symbol->text + symbol->exchange + 1,
            (Py_ssize_t)(symbol->size - symbol->exchange - 1), (long long)run->first, (long long)run->last,
            (long long)run->low, (long long)run->high, (long long)run->step, (long long)run->day, sum, run->rows.start,
            (Py_ssize_t)run->rows.used);
        int failed = one == NULL || PyList_Append(list, one) < 0;
        Py_XDECREF(one);
        if (failed) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

PyDoc_STRVAR(rows_doc,
             "rows(block) -> list\n\n"
             "Turn lines that `scan` took into runs: fills of one symbol and UTC day whose ids follow on each other, in the\n"
             "order of their first lines. Each is (exchange, symbol, first id, last id, lowest and highest time, the most\n"
             "that time steps back (ms), day since 1970, checksum as text, rows in COPY's binary format).\n\n"
             "Raises ValueError for another line, OverflowError where 128 bits do not hold a checksum.");
static PyObject *rows(PyObject *self, PyObject *arg) {
    Py_buffer block;
    Runs runs = {NULL, NULL, 0, 0, 0};
    Symbols symbols = {NULL, NULL, 0, 0, 0, 0};
    PyObject *result = NULL;
    (void)self;
    if (PyObject_GetBuffer(arg, &block, PyBUF_SIMPLE) < 0) return NULL;
    const char *at = block.buf, *stop = at + block.len;
    int good = 1;
    while (good && at < stop) {
        Fill fill;
        const char *end = memchr(at, '\n', (size_t)(stop - at));
        if (end == NULL || !fill_of(at, end, &fill) || fill.count != 1) {
            PyErr_SetString(PyExc_ValueError, "a line that is no everyday fill");
            good = 0;
        } else {
            good = add_fill(&runs, &symbols, &fill);
            at = end + 1;
        }
    }
    if (good) result = shown(&runs, &symbols);
    for (size_t i = 0; i < runs.used; i++) PyMem_Free(runs.runs[i].rows.start);
    PyMem_Free(runs.runs);
    PyMem_Free(runs.newest);
    symbols_free(&symbols);
    PyBuffer_Release(&block);
    return result;
}

PyDoc_STRVAR(scan_doc,
             "scan(block, at, now_ms, most) -> (next, taken)\n\n"
             "Count the everyday lines of fills, at most so many, from an offset on, up to the first that is none.");
static PyObject *scan(PyObject *self, PyObject *args) {
    Py_buffer block;
    long long now;
    Py_ssize_t at, most, taken = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nLn", &block, &at, &now, &most)) return NULL;
    if (!in_block(at, &block)) {
        PyBuffer_Release(&block);
        return NULL;
    }
    const char *start = block.buf;
    while (at < block.len && taken < most) {
        Fill fill;
        const char *end = memchr(start + at, '\n', (size_t)(block.len - at));
        if (end == NULL || !fill_of(start + at, end, &fill) || is_word(fill.origin, "trades")) break;
        if (fill.count != 1 || !has_come(fill.timestamp, fill.received, now)) break;
        taken++;
        at = end + 1 - start;
    }
    PyBuffer_Release(&block);
    return Py_BuildValue("(nn)", at, taken);
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS, scan_doc},
    {"rows", rows, METH_O, rows_doc},
    {NULL, NULL, 0, NULL},
};

KERNEL_MODULE(fill_rows, "Trade lines to rows.", methods, NULL)
