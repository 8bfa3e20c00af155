/* Trade lines, a block at a time, folded into runs: fills of one symbol that follow on each other by id and lie in one
   bar, before the next moment at which anything is due. Whoever owns the bars says what the next run may hold; the first
   line that no run may hold ends the call, and is the Python road's. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "../scan.h"

/* Digits of a price and of a size, so that their product fits in 128 bits. */
#define DIGITS_MAX 18

typedef __int128 Wide;

/* mantissa / 10^places, without needless zeros. */
typedef struct {
    int64_t mantissa;
    int places;
} Number;

/* An exact sum. */
typedef struct {
    Wide mantissa;
    int places;
} Sum;

typedef struct {
    char name[LABEL_MAX + 1 + SYMBOL_MAX]; /* exchange, newline, symbol */
    int size;
    uint32_t hash;
    int64_t next, since, until; /* the next id, and the times [since, until) of which fills are folded */
    int64_t count, first, low, high, newest, step;
    Number open, highest, lowest, close;
    Sum volume, buy, quote;
} Entry;

typedef struct {
    PyObject_HEAD Entry *entries;
    uint32_t *slots; /* 1 + the number of an entry, 0 where none is: open addressing */
    uint32_t used, room, mask, last;
} Folder;

static const int64_t TENS[] = {
    1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000,
    1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000, 100000000000000000,
    1000000000000000000,
};

static int number_of(Span span, Number *number) {
    int64_t found = 0;
    int digits = 0, places = 0, point = 0;
    for (int i = 0; i < span.size; i++) {
        char c = span.at[i];
        if (c == '.') {
            point = 1;
            continue;
        }
        if ((found || c != '0') && ++digits > DIGITS_MAX) return 0;
        found = found * 10 + (c - '0');
        places += point;
    }
    number->mantissa = found;
    number->places = places;
    return places <= 18;
}

static int compare(Number a, Number b) {
    Wide left = a.mantissa, right = b.mantissa;
    if (a.places < b.places) left *= TENS[b.places - a.places];
    if (b.places < a.places) right *= TENS[a.places - b.places];
    return (left > right) - (left < right);
}

/* Add to a sum, exactly; 0 and nothing done where 128 bits do not hold it. */
static int add(Sum *sum, Wide mantissa, int places) {
    Wide found = sum->mantissa;
    int most = sum->places;
    for (; most < places; most++)
        if (__builtin_mul_overflow(found, (Wide)10, &found)) return 0;
    for (; places < most; places++)
        if (__builtin_mul_overflow(mantissa, (Wide)10, &mantissa)) return 0;
    if (__builtin_add_overflow(found, mantissa, &found)) return 0;
    sum->mantissa = found;
    sum->places = most;
    return 1;
}

static uint32_t hash_of(const char *exchange, int size, const char *symbol, int length) {
    uint32_t hash = 2166136261u;
    for (int i = 0; i < size; i++) hash = (hash ^ (unsigned char)exchange[i]) * 16777619u;
    for (int i = 0; i < length; i++) hash = (hash ^ (unsigned char)symbol[i]) * 16777619u;
    return hash;
}

static int is(const Entry *entry, uint32_t hash, Span exchange, Span symbol) {
    return entry->hash == hash && entry->size == exchange.size + 1 + symbol.size &&
           memcmp(entry->name, exchange.at, (size_t)exchange.size) == 0 && entry->name[exchange.size] == '\n' &&
           memcmp(entry->name + exchange.size + 1, symbol.at, (size_t)symbol.size) == 0;
}

static Entry *find(Folder *folder, Span exchange, Span symbol) {
    if (folder->used == 0) return NULL;
    uint32_t hash = hash_of(exchange.at, exchange.size, symbol.at, symbol.size);
    if (is(&folder->entries[folder->last], hash, exchange, symbol)) return &folder->entries[folder->last];
    for (uint32_t at = hash & folder->mask; folder->slots[at]; at = (at + 1) & folder->mask) {
        uint32_t number = folder->slots[at] - 1;
        if (is(&folder->entries[number], hash, exchange, symbol)) {
            folder->last = number;
            return &folder->entries[number];
        }
    }
    return NULL;
}

/* Twice the room; at most half of the slots are ever taken. */
static int grow(Folder *folder) {
    uint32_t room = folder->room ? folder->room * 2 : 16;
    if (room > 1u << 24) return 0;
    Entry *entries = PyMem_Realloc(folder->entries, room * sizeof(Entry));
    if (entries == NULL) return 0;
    folder->entries = entries;
    uint32_t *slots = PyMem_Calloc(room * 2, sizeof(uint32_t));
    if (slots == NULL) return 0;
    PyMem_Free(folder->slots);
    folder->slots = slots;
    folder->room = room;
    folder->mask = room * 2 - 1;
    for (uint32_t i = 0; i < folder->used; i++) {
        uint32_t at = folder->entries[i].hash & folder->mask;
        while (slots[at]) at = (at + 1) & folder->mask;
        slots[at] = i + 1;
    }
    return 1;
}

typedef struct {
    Span exchange, symbol, price, size;
    int64_t id, timestamp, received;
    int buy;
} Fill;

/* A trade line of one fill, exactly as core/codec.py writes them. */
static int fill_of(const char *start, const char *end, Fill *fill) {
    Cursor c = {start, end};
    Span span;
    int64_t number;
    if (!LITERAL(&c, "{\"type\":\"trade\",\"exchange\":\"") || !label(&c, &fill->exchange)) return 0;
    if (!LITERAL(&c, "\",\"symbol\":\"") || !symbol_name(&c, &fill->symbol)) return 0;
    if (!LITERAL(&c, "\",\"trade_id\":") || !whole(&c, &span, &fill->id) || fill->id == 0) return 0;
    if (!LITERAL(&c, ",\"count\":1,\"side\":\"")) return 0;
    fill->buy = LITERAL(&c, "buy\",\"price\":\"");
    if (!fill->buy && !LITERAL(&c, "sell\",\"price\":\"")) return 0;
    if (!positive(&c, &fill->price) || !LITERAL(&c, "\",\"size\":\"")) return 0;
    if (!positive(&c, &fill->size) || !LITERAL(&c, "\",\"timestamp\":")) return 0;
    if (!moment(&c, &span, &fill->timestamp) || !LITERAL(&c, ",\"received\":")) return 0;
    fill->received = 0;
    if (!LITERAL(&c, "null") && !moment(&c, &span, &fill->received)) return 0;
    if (!LITERAL(&c, ",\"source\":")) return 0;
    if (!LITERAL(&c, "null") && (!whole(&c, &span, &number) || number >= 1000)) return 0;
    if (!LITERAL(&c, ",\"origin\":\"") || !label(&c, &span)) return 0;
    /* Of how many fills such a one is nobody knows. */
    if (span.size == 11 && memcmp(span.at, "file-merged", 11) == 0) return 0;
    return LITERAL(&c, "\"}") && c.p == c.end;
}

/* Fold a fill into the run of its symbol; 0 and nothing changed where it may not. */
static int fold(Folder *folder, const Fill *fill, int64_t now) {
    Entry *entry = find(folder, fill->exchange, fill->symbol);
    Number price, size;
    if (entry == NULL || fill->id != entry->next) return 0;
    if (fill->timestamp < entry->since || fill->timestamp >= entry->until) return 0;
    if (!has_come(fill->timestamp, fill->received, now)) return 0;
    if (!number_of(fill->price, &price) || !number_of(fill->size, &size)) return 0;
    Sum none = {0, 0};
    Sum volume = entry->count ? entry->volume : none;
    Sum buy = entry->count ? entry->buy : none;
    Sum quote = entry->count ? entry->quote : none;
    if (!add(&volume, size.mantissa, size.places)) return 0;
    if (fill->buy && !add(&buy, size.mantissa, size.places)) return 0;
    if (!add(&quote, (Wide)price.mantissa * size.mantissa, price.places + size.places)) return 0;
    entry->volume = volume;
    entry->buy = buy;
    entry->quote = quote;
    entry->close = price;
    if (entry->count == 0) {
        entry->open = entry->highest = entry->lowest = price;
        entry->first = fill->id;
        entry->low = entry->high = fill->timestamp;
        entry->step = 0;
    } else {
        if (compare(price, entry->highest) > 0) entry->highest = price;
        else if (compare(price, entry->lowest) < 0) entry->lowest = price;
        if (fill->timestamp > entry->high) entry->high = fill->timestamp;
        else if (entry->high - fill->timestamp > entry->step) entry->step = entry->high - fill->timestamp;
        if (fill->timestamp < entry->low) entry->low = fill->timestamp;
    }
    entry->count++;
    entry->next++;
    return 1;
}

static PyObject *take(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at, taken = 0;
    long long now;
    if (!PyArg_ParseTuple(args, "y*nL", &block, &at, &now)) return NULL;
    if (at < 0 || at > block.len) {
        PyBuffer_Release(&block);
        PyErr_SetString(PyExc_ValueError, "an offset outside of the block");
        return NULL;
    }
    const char *start = block.buf;
    while (at < block.len) {
        Fill fill;
        const char *end = memchr(start + at, '\n', (size_t)(block.len - at));
        if (end == NULL || !fill_of(start + at, end, &fill) || !fold((Folder *)self, &fill, now)) break;
        taken++;
        at = end + 1 - start;
    }
    PyBuffer_Release(&block);
    return Py_BuildValue("(nn)", at, taken);
}

static int names_of(const char *exchange, const char *symbol, Span *first, Span *second) {
    size_t size = strlen(exchange), length = strlen(symbol);
    *first = (Span){exchange, (int)size};
    *second = (Span){symbol, (int)length};
    return size <= LABEL_MAX && length <= SYMBOL_MAX;
}

static PyObject *watch(PyObject *self, PyObject *args) {
    Folder *folder = (Folder *)self;
    const char *names[2];
    long long next, since, until;
    Span exchange, symbol;
    if (!PyArg_ParseTuple(args, "ssLLL", &names[0], &names[1], &next, &since, &until)) return NULL;
    if (!names_of(names[0], names[1], &exchange, &symbol)) Py_RETURN_NONE; /* no line of such a symbol is taken */
    Entry *entry = find(folder, exchange, symbol);
    if (entry == NULL) {
        if (folder->used == folder->room && !grow(folder)) return PyErr_NoMemory();
        entry = &folder->entries[folder->used];
        memset(entry, 0, sizeof *entry);
        memcpy(entry->name, exchange.at, (size_t)exchange.size);
        entry->name[exchange.size] = '\n';
        memcpy(entry->name + exchange.size + 1, symbol.at, (size_t)symbol.size);
        entry->size = exchange.size + 1 + symbol.size;
        entry->hash = hash_of(exchange.at, exchange.size, symbol.at, symbol.size);
        uint32_t slot = entry->hash & folder->mask;
        while (folder->slots[slot]) slot = (slot + 1) & folder->mask;
        folder->slots[slot] = ++folder->used;
    }
    if (entry->count) {
        PyErr_SetString(PyExc_RuntimeError, "a run is open: take it first");
        return NULL;
    }
    entry->next = next;
    entry->since = since;
    entry->until = until;
    Py_RETURN_NONE;
}

/* The digits of mantissa / 10^places; `text` has room for all of them. */
static char *digits(Wide mantissa, int places, char *text) {
    char *end = text + 63, *at = end;
    *at = 0;
    for (int i = 0; mantissa || i <= places; i++) {
        if (places && i == places) *--at = '.';
        *--at = (char)('0' + (int)(mantissa % 10));
        mantissa /= 10;
    }
    return at;
}

static PyObject *run_of(Entry *entry) {
    char text[7][64];
    PyObject *run = Py_BuildValue(
        "(LLLLLLsssssss)", (long long)entry->count, (long long)entry->first, (long long)(entry->next - 1),
        (long long)entry->low, (long long)entry->high, (long long)entry->step,
        digits(entry->open.mantissa, entry->open.places, text[0]),
        digits(entry->highest.mantissa, entry->highest.places, text[1]),
        digits(entry->lowest.mantissa, entry->lowest.places, text[2]),
        digits(entry->close.mantissa, entry->close.places, text[3]),
        digits(entry->volume.mantissa, entry->volume.places, text[4]),
        digits(entry->buy.mantissa, entry->buy.places, text[5]),
        digits(entry->quote.mantissa, entry->quote.places, text[6]));
    if (run != NULL) entry->count = 0;
    return run;
}

static PyObject *run(PyObject *self, PyObject *args) {
    const char *names[2];
    Span exchange, symbol;
    if (!PyArg_ParseTuple(args, "ss", &names[0], &names[1])) return NULL;
    Entry *entry = names_of(names[0], names[1], &exchange, &symbol) ? find((Folder *)self, exchange, symbol) : NULL;
    if (entry == NULL || entry->count == 0) Py_RETURN_NONE;
    return run_of(entry);
}

static int folder_init(PyObject *self, PyObject *args, PyObject *words) {
    static char *none[] = {NULL};
    (void)self;
    return PyArg_ParseTupleAndKeywords(args, words, "", none) ? 0 : -1;
}

static void folder_free(PyObject *self) {
    Folder *folder = (Folder *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyMem_Free(folder->entries);
    PyMem_Free(folder->slots);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(take_doc,
             "take(block, at, now_ms) -> (next, taken)\n\n"
             "Fold the trade lines of a block from an offset on, up to the first that no run may hold.\n"
             "`taken` is how many there were, `next` the offset behind them.");
PyDoc_STRVAR(watch_doc,
             "watch(exchange, symbol, next_id, since, until)\n\n"
             "From here on fold fills of this symbol whose ids follow on from `next_id`, in times [since, until) in ms.");
PyDoc_STRVAR(run_doc,
             "run(exchange, symbol) -> tuple | None\n\n"
             "Hand out what was folded for a symbol, and begin anew: count, first and last id, lowest and highest time and\n"
             "the most that time stepped back inside (ms); open, high, low, close, volume, buy and quote volume as text.");

static PyMethodDef methods[] = {
    {"take", take, METH_VARARGS, take_doc},
    {"watch", watch, METH_VARARGS, watch_doc},
    {"run", run, METH_VARARGS, run_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot folder_slots[] = {
    {Py_tp_doc, "Folds trade lines into runs, a symbol each."},
    {Py_tp_init, (void *)folder_init},
    {Py_tp_dealloc, (void *)folder_free},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec folder_spec = {"okxcli.core.candles._runs.Folder", sizeof(Folder), 0, Py_TPFLAGS_DEFAULT, folder_slots};

static int fill_module(PyObject *module) {
    if (PyModule_AddIntConstant(module, "KERNEL", KERNEL) < 0) return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &folder_spec, NULL);
    if (type == NULL) return -1;
    int failed = PyModule_AddObjectRef(module, "Folder", type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill_module}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_runs", "Trade lines to runs of fills.", 0, NULL, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__runs(void);

PyMODINIT_FUNC PyInit__runs(void) { return PyModuleDef_Init(&module); }
