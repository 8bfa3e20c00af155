/* Trade lines, or rows of a file, a block at a time, folded into runs: fills of one symbol that follow on each other by
   id and lie in one bar, before the next moment at which anything is due. Whoever owns the bars says what the next run
   may hold; the first line that no run may hold ends the call, and is the Python road's. */
#include "../module.h"

#include "../cells.h"
#include "../symbols.h"

/* The run of a symbol; none where `count` is 0. */
typedef struct {
    int64_t next, since, until; /* the next id, and the times [since, until) of which fills are folded */
    int64_t count, fills, first, low, high, step; /* `count` trades, of so many fills */
    Number open, highest, lowest, close;
    Sum volume, buy, quote;
} Entry;

typedef struct {
    PyObject_HEAD Symbols symbols;
    Entry *entries;
    uint32_t room;
} Folder;

static int compare(Number a, Number b) {
    Wide left = a.mantissa, right = b.mantissa;
    if (a.places < b.places) left *= TENS[b.places - a.places];
    if (b.places < a.places) right *= TENS[a.places - b.places];
    return (left > right) - (left < right);
}

/* What a run takes of a trade. */
typedef struct {
    int64_t id, fills, timestamp; /* the last of its ids */
    Number price, size;
    int buy;
} Piece;

/* Add a fill to a run; 0 and nothing changed where it may not be there. */
static int add_piece(Entry *entry, const Piece *fill) {
    if (fill->id - fill->fills + 1 != entry->next) return 0;
    if (fill->timestamp < entry->since || fill->timestamp >= entry->until) return 0;
    Number price = fill->price, size = fill->size;
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
        entry->first = entry->next;
        entry->fills = 0;
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
    entry->fills += fill->fills;
    entry->next = fill->id + 1;
    return 1;
}

/* Fold a fill into the run of its symbol; 0 and nothing changed where it may not. */
static int fold(Folder *folder, const Fill *fill, int64_t now) {
    int64_t at = symbols_find(&folder->symbols, fill->exchange, fill->symbol);
    if (at < 0 || !has_come(fill->timestamp, fill->received, now)) return 0;
    Piece piece = {fill->id, fill->count, fill->timestamp, {0, 0}, {0, 0}, fill->buy};
    if (!number_of(fill->price, &piece.price) || !number_of(fill->size, &piece.size)) return 0;
    return add_piece(&folder->entries[at], &piece);
}

PyDoc_STRVAR(take_doc,
             "take(block, at, now_ms) -> (next, taken)\n\n"
             "Fold the trade lines of a block from an offset on, up to the first that no run may hold.\n"
             "`taken` is how many there were, `next` the offset behind them.");
static PyObject *take(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at, taken = 0;
    long long now;
    if (!PyArg_ParseTuple(args, "y*nL", &block, &at, &now)) return NULL;
    if (!in_block(at, &block)) {
        PyBuffer_Release(&block);
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

/* Rows are of one exchange, of which a symbol is looked up where it is another than that of the row before. */
static Py_ssize_t fold_rows(Folder *folder, const Py_buffer *block, Py_ssize_t *at, const Columns *columns, Span exchange,
                            int64_t now) {
    const char *start = block->buf;
    Cells cells = {0};
    Entry *entry = NULL;
    Span symbol = {"", 0};
    Py_ssize_t taken = 0;
    while (*at < block->len) {
        const char *end = memchr(start + *at, '\n', (size_t)(block->len - *at));
        if (end == NULL || !cells_of(start + *at, end, columns, &cells)) break;
        if (entry == NULL || !same(symbol, cells.symbol)) {
            int64_t found = symbols_find(&folder->symbols, exchange, cells.symbol);
            if (found < 0) break;
            entry = &folder->entries[found];
            symbol = cells.symbol;
        }
        Piece piece = {cells.id, 1, cells.timestamp, cells.price, cells.size, cells.buy};
        if (!has_come(cells.timestamp, 0, now) || !add_piece(entry, &piece)) break;
        taken++;
        *at = end + 1 - start;
    }
    return taken;
}

PyDoc_STRVAR(take_rows_doc,
             "take_rows(block, at, now_ms, exchange, columns, symbol) -> (next, taken)\n\n"
             "Fold rows of cells between commas from an offset on, up to the first that no run may hold. `columns` tells by a\n"
             "letter each what they hold (core/cells.h), `symbol` is that of all rows where no column tells it.");
static PyObject *take_rows(PyObject *self, PyObject *args) {
    Py_buffer block;
    Py_ssize_t at, count, size, length, taken = 0;
    long long now;
    const char *kinds, *symbol;
    Span exchange;
    Columns columns;
    if (!PyArg_ParseTuple(args, "y*nLy#y#y#", &block, &at, &now, &exchange.at, &length, &kinds, &count, &symbol, &size))
        return NULL;
    int inside = in_block(at, &block);
    exchange.size = (int)length;
    if (inside && length <= LABEL_MAX && columns_of(kinds, count, symbol, size, &columns))
        taken = fold_rows((Folder *)self, &block, &at, &columns, exchange, now);
    PyBuffer_Release(&block);
    return inside ? Py_BuildValue("(nn)", at, taken) : NULL;
}

static int names_of(const char *exchange, const char *symbol, Span *first, Span *second) {
    size_t size = strlen(exchange), length = strlen(symbol);
    *first = (Span){exchange, (int)size};
    *second = (Span){symbol, (int)length};
    return size <= LABEL_MAX && length <= SYMBOL_MAX;
}

/* As much room for entries as there is for symbols. */
static int entries_grow(Folder *folder) {
    if (folder->room == folder->symbols.room) return 1;
    Entry *entries = PyMem_Realloc(folder->entries, folder->symbols.room * sizeof(Entry));
    if (entries == NULL) return 0;
    folder->entries = entries;
    folder->room = folder->symbols.room;
    return 1;
}

PyDoc_STRVAR(watch_doc,
             "watch(exchange, symbol, next_id, since, until)\n\n"
             "From here on fold fills of this symbol whose ids follow on from `next_id`, in times [since, until) in ms.");
static PyObject *watch(PyObject *self, PyObject *args) {
    Folder *folder = (Folder *)self;
    const char *names[2];
    long long next, since, until;
    Span exchange, symbol;
    if (!PyArg_ParseTuple(args, "ssLLL", &names[0], &names[1], &next, &since, &until)) return NULL;
    if (!names_of(names[0], names[1], &exchange, &symbol)) Py_RETURN_NONE; /* no line of such a symbol is taken */
    int64_t at = symbols_find(&folder->symbols, exchange, symbol);
    if (at < 0) {
        at = symbols_add(&folder->symbols, exchange, symbol);
        if (at < 0 || !entries_grow(folder)) return PyErr_NoMemory();
        memset(&folder->entries[at], 0, sizeof(Entry));
    }
    Entry *entry = &folder->entries[at];
    if (entry->count) {
        PyErr_SetString(PyExc_RuntimeError, "a run is open: take it first");
        return NULL;
    }
    entry->next = next;
    entry->since = since;
    entry->until = until;
    Py_RETURN_NONE;
}

static PyObject *run_of(Entry *entry) {
    char text[7][64];
    PyObject *run = Py_BuildValue(
        "(LLLLLLLsssssss)", (long long)entry->count, (long long)entry->fills, (long long)entry->first,
        (long long)(entry->next - 1), (long long)entry->low, (long long)entry->high, (long long)entry->step,
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

PyDoc_STRVAR(run_doc,
             "run(exchange, symbol) -> tuple | None\n\n"
             "Hand out what was folded for a symbol, and begin anew: how many trades, of how many fills, first and last id,\n"
             "lowest and highest time and the most that time stepped back inside (ms); open, high, low, close, volume, buy\n"
             "and quote volume as text.");
static PyObject *run(PyObject *self, PyObject *args) {
    const char *names[2];
    Span exchange, symbol;
    if (!PyArg_ParseTuple(args, "ss", &names[0], &names[1])) return NULL;
    Folder *folder = (Folder *)self;
    if (!names_of(names[0], names[1], &exchange, &symbol)) Py_RETURN_NONE;
    int64_t at = symbols_find(&folder->symbols, exchange, symbol);
    if (at < 0 || folder->entries[at].count == 0) Py_RETURN_NONE;
    return run_of(&folder->entries[at]);
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
    symbols_free(&folder->symbols);
    PyMem_Free(folder->entries);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"take", take, METH_VARARGS, take_doc},
    {"take_rows", take_rows, METH_VARARGS, take_rows_doc},
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

static int add_folder(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &folder_spec, NULL);
    if (type == NULL) return -1;
    int failed = PyModule_AddObjectRef(module, "Folder", type);
    Py_DECREF(type);
    return failed;
}

KERNEL_MODULE(runs, "Trade lines to runs of fills.", NULL, add_folder)
