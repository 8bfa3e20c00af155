/* What both kernels read JSON text with. Each function looks at nothing beyond `end`, moves `p` past what it took, and
   says 0 where the text is not exactly of the everyday form: then the Python road reads it, which knows every form. */
#ifndef OKX_SCAN_H
#define OKX_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Counted up whenever what a kernel takes, gives or means changes: okxcli/runtime/road.py leaves others alone. */
#define KERNEL 5

typedef struct {
    const char *p, *end;
} Cursor;

/* A piece of the text. */
typedef struct {
    const char *at;
    int size;
} Span;

#define SYMBOL_MAX 64
#define LABEL_MAX 32
/* Digits on each side of a point: core/decimals.py takes 30 and 60 in all. */
#define WHOLE_MAX 20
#define PLACES_MAX 28

/* The bounds of core/model.py, which a test holds equal. */
#define MIN_TIMESTAMP INT64_C(1262304000000)
#define MAX_TIMESTAMP INT64_C(4102444800000)
#define AHEAD_MS INT64_C(3600000)
#define UNSTAMPED_AHEAD_MS INT64_C(86400000)

static inline int is_digit(char c) { return (unsigned char)(c - '0') < 10; }

static inline int is_small(char c) { return (unsigned char)(c - 'a') < 26 || is_digit(c); }

static inline int literal(Cursor *c, const char *text, size_t size) {
    if ((size_t)(c->end - c->p) < size || memcmp(c->p, text, size) != 0) return 0;
    c->p += size;
    return 1;
}
#define LITERAL(cursor, text) literal(cursor, text, sizeof(text) - 1)

/* Take digits, of which no more than 18 are to be believed; return how many there were. Eight at once, without a branch
   for each: numbers differ in length from line to line. */
static inline int digits_of(Cursor *c, uint64_t *value) {
    static const uint64_t powers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
    const uint64_t high = 0xf0f0f0f0f0f0f0f0u, zeros = 0x3030303030303030u, pairs = 0x000000ff000000ffu;
    int count = 0, some = 8;
    uint64_t found = 0;
#if defined __BYTE_ORDER__ && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (some == 8 && count < 24) {
        uint64_t word;
        ptrdiff_t left = c->end - c->p;
        if (left >= 8) memcpy(&word, c->p, 8);
        else if (count && left) {
            memcpy(&word, c->end - 8, 8); /* there are eight before `p` */
            word >>= 8 * (8 - left);
        } else break;
        uint64_t odd = ((word & high) ^ zeros) | (((word + 0x0606060606060606u) & high) ^ zeros);
        some = odd ? __builtin_ctzll(odd) / 8 : 8;
        if (some == 0) break;
        word = (word << 8 * (8 - some)) - (zeros << 8 * (8 - some));
        word = word * 10 + (word >> 8); /* in every second byte two digits */
        word = ((word & pairs) * 0x000f424000000064u + ((word >> 16) & pairs) * 0x0000271000000001u) >> 32;
        found = found * powers[some] + (word & 0xffffffffu);
        c->p += some;
        count += some;
    }
#endif
    while (some == 8 && c->p < c->end && is_digit(*c->p)) {
        found = found * 10 + (uint64_t)(*c->p++ - '0');
        count++;
    }
    *value = found;
    return count;
}

/* A whole number without a sign and without leading zeros, of at most 18 digits. */
static inline int whole(Cursor *c, Span *span, int64_t *value) {
    uint64_t found;
    span->at = c->p;
    span->size = digits_of(c, &found);
    if (span->size > 18) return 0;
    *value = (int64_t)found;
    return span->size == 1 || (span->size > 1 && *span->at != '0');
}

/* A time in milliseconds that a line may have. */
static inline int moment(Cursor *c, Span *span, int64_t *value) {
    return whole(c, span, value) && *value >= MIN_TIMESTAMP && *value < MAX_TIMESTAMP;
}

/* Whether a row of that time can have come: by its stamp of receipt if it has one (0: none), else by now. */
static inline int has_come(int64_t timestamp, int64_t received, int64_t now) {
    return timestamp <= (received ? received + AHEAD_MS : now + UNSTAMPED_AHEAD_MS);
}

/* A name of ASCII letters, digits and dashes, as symbols are; without what needs a closer look. */
static inline int symbol_name(Cursor *c, Span *span) {
    const char *start = c->p;
    while (c->p < c->end && (is_digit(*c->p) || (unsigned char)((*c->p | 32) - 'a') < 26 || *c->p == '-')) c->p++;
    if (c->p == start || c->p - start > SYMBOL_MAX || *start == '-') return 0;
    span->at = start;
    span->size = (int)(c->p - start);
    return 1;
}

/* A name of small letters, digits and dashes, as exchanges and origins are. */
static inline int label(Cursor *c, Span *span) {
    const char *start = c->p;
    while (c->p < c->end && (is_small(*c->p) || *c->p == '-')) c->p++;
    if (c->p == start || c->p - start > LABEL_MAX || *start == '-') return 0;
    span->at = start;
    span->size = (int)(c->p - start);
    return 1;
}

/* A number in plain notation, of which `any` says that it is not zero; the span leaves out zeros that say nothing behind
   the point, and its point. */
static inline int decimal(Cursor *c, Span *span, char *any) {
    const char *start = c->p;
    *any = 0;
    while (c->p < c->end && is_digit(*c->p)) *any |= (char)(*c->p++ ^ '0');
    int size = (int)(c->p - start);
    if (size < 1 || size > WHOLE_MAX || (size > 1 && *start == '0')) return 0;
    if (c->p < c->end && *c->p == '.') {
        const char *places = ++c->p;
        while (c->p < c->end && is_digit(*c->p)) *any |= (char)(*c->p++ ^ '0');
        if (c->p == places || c->p - places > PLACES_MAX) return 0;
        const char *last = c->p;
        while (last > places && last[-1] == '0') last--;
        if (last > places) size = (int)(last - start);
    }
    span->at = start;
    span->size = size;
    return 1;
}

static inline int positive(Cursor *c, Span *span) {
    char any;
    return decimal(c, span, &any) && any;
}

static inline int amount(Cursor *c, Span *span) {
    char any;
    return decimal(c, span, &any);
}

static inline int same(Span a, Span b) { return a.size == b.size && memcmp(a.at, b.at, (size_t)a.size) == 0; }

#endif
