/* Trade lines, as core/codec.py writes them, and exact sums of what they hold. */
#ifndef OKX_FILL_H
#define OKX_FILL_H

#include "scan.h"

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

static inline int number_of(Span span, Number *number) {
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

static const int64_t TENS[] = {
    1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000,
    1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000, 100000000000000000,
    1000000000000000000,
};

/* Times 10^places; 0 where 128 bits do not hold it. */
static inline int shift(Wide *mantissa, int places) {
    for (; places > 18; places -= 18)
        if (__builtin_mul_overflow(*mantissa, (Wide)TENS[18], mantissa)) return 0;
    if (*mantissa <= INT64_MAX && *mantissa >= -INT64_MAX) {
        *mantissa *= TENS[places]; /* 63 bits times 60 */
        return 1;
    }
    return !__builtin_mul_overflow(*mantissa, (Wide)TENS[places], mantissa);
}

/* Add to a sum, exactly; 0 and nothing done where 128 bits do not hold it. */
static inline int add(Sum *sum, Wide mantissa, int places) {
    Wide found = sum->mantissa;
    int most = sum->places;
    if (most < places) {
        if (!shift(&found, places - most)) return 0;
        most = places;
    } else if (places < most && !shift(&mantissa, most - places)) return 0;
    if (__builtin_add_overflow(found, mantissa, &found)) return 0;
    sum->mantissa = found;
    sum->places = most;
    return 1;
}

/* The digits of mantissa / 10^places; `text` has room for all of them. */
static inline char *digits(Wide mantissa, int places, char *text) {
    char *end = text + 63, *at = end;
    *at = 0;
    for (int i = 0; mantissa || i <= places; i++) {
        if (places && i == places) *--at = '.';
        *--at = (char)('0' + (int)(mantissa % 10));
        mantissa /= 10;
    }
    return at;
}

typedef struct {
    Span exchange, symbol, price, size, source, origin; /* source is empty where there is none */
    int64_t id, count, timestamp, received;                      /* received is 0 where there is none */
    int buy;
} Fill;

static inline int is_word(Span span, const char *word) {
    return span.size == (int)strlen(word) && memcmp(span.at, word, (size_t)span.size) == 0;
}

/* A trade line, exactly as core/codec.py writes them: of the fills `id - count + 1 .. id`. */
static inline int fill_of(const char *start, const char *end, Fill *fill) {
    Cursor c = {start, end};
    Span span;
    int64_t number;
    if (!LITERAL(&c, "{\"type\":\"trade\",\"exchange\":\"") || !label(&c, &fill->exchange)) return 0;
    if (!LITERAL(&c, "\",\"symbol\":\"") || !symbol_name(&c, &fill->symbol)) return 0;
    if (!LITERAL(&c, "\",\"trade_id\":") || !whole(&c, &span, &fill->id) || fill->id == 0) return 0;
    if (!LITERAL(&c, ",\"count\":") || !whole(&c, &span, &fill->count)) return 0;
    if (fill->count == 0 || fill->count > fill->id || !LITERAL(&c, ",\"side\":\"")) return 0;
    fill->buy = LITERAL(&c, "buy\",\"price\":\"");
    if (!fill->buy && !LITERAL(&c, "sell\",\"price\":\"")) return 0;
    if (!positive(&c, &fill->price) || !LITERAL(&c, "\",\"size\":\"")) return 0;
    if (!positive(&c, &fill->size) || !LITERAL(&c, "\",\"timestamp\":")) return 0;
    if (!moment(&c, &span, &fill->timestamp) || !LITERAL(&c, ",\"received\":")) return 0;
    fill->received = 0;
    if (!LITERAL(&c, "null") && !moment(&c, &span, &fill->received)) return 0;
    if (!LITERAL(&c, ",\"source\":")) return 0;
    fill->source = (Span){c.p, 0};
    if (!LITERAL(&c, "null") && (!whole(&c, &fill->source, &number) || number >= 1000)) return 0;
    if (!LITERAL(&c, ",\"origin\":\"") || !label(&c, &fill->origin)) return 0;
    /* Of how many fills such a one is nobody knows. */
    if (is_word(fill->origin, "file-merged")) return 0;
    return LITERAL(&c, "\"}") && c.p == c.end;
}

#endif
