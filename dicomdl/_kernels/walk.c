/* The heads of many files: open, fstat, pread, close, and the walk over the elements before the
 * pixel data, without the interpreter lock.
 *
 * The rule: a file is taken only if each of its elements is ordinary. Whatever is odd about a file
 * leaves it to the walk in Python (headers/_elements.py), which knows every case and reports
 * defects. Ordinary is: a preamble of zeros, one transfer syntax (little endian, explicit or
 * implicit, or a compressed one), known VRs, sound sequences, no value of more than 65,534 bytes
 * where one is wanted, pixel data behind the first 256 KiB at most: of a defined length, or one
 * fragment.
 *
 * Values are stored once per slot: a row of a file has the number of its value in each slot. Slices
 * of a series repeat most values, so that Python converts each of them once. */
#include "kernels.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#define UNDEFINED 0xFFFFFFFFu
/* Tags are raw: their four bytes in the file as one number in little endian. */
#define ITEM 0xE000FFFEu
#define ITEM_END 0xE00DFFFEu
#define SEQUENCE_END 0xE0DDFFFEu
#define PIXEL_DATA 0x00107FE0u
#define FLOAT_PIXEL_DATA 0x00087FE0u
#define DOUBLE_FLOAT_PIXEL_DATA 0x00097FE0u
#define MAX_DEPTH 32
#define LONGEST 0xFFFEu
#define MOST_META 64
#define MOST_BLOCKS 32
#define MOST_SLOTS 4096
#define HEAD_BYTES 12
#define BEHIND_PREFIX 132
/* Longest first part of a file that is read. */
#define MOST_BYTES ((uint64_t)1 << 18)

/* What a value must be, so that a file is ordinary. */
#define RULE_ASCII 1   /* text without bytes beyond ASCII and without escapes */
#define RULE_UID 2     /* present, and beginning with a digit or a later character */
#define RULE_ABSENT 4  /* absent or empty */
#define RULE_PRESENCE 8 /* only whether it is there counts */

enum outcome { MINE, NOT_MINE, NEEDS_MORE };

typedef struct {
    uint32_t tag;
    int32_t slot;
} Entry;

typedef struct {
    uint16_t group;
    const char *name;
    size_t length;
    /* Pairs of the low byte of a tag and its slot. */
    const char *pairs;
    size_t count;
} Creator;

typedef struct {
    Entry *table;
    uint32_t mask;
    Creator *creators;
    size_t creator_count;
    const uint8_t *rules;
    size_t slots;
    size_t syntax_slot;
} Plan;

typedef struct {
    uint32_t at;
    uint32_t length;
} Field;

typedef struct {
    uint32_t number;
    uint8_t block;
} Block;

typedef struct {
    Field *fields;
    uint64_t pixels_at;
    uint64_t pixels_length;
    int is_encapsulated;
    Block blocks[MOST_BLOCKS];
    size_t block_count;
} Row;

static inline uint32_t
short_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static inline uint32_t
long_at(const uint8_t *bytes)
{
    return short_at(bytes) | short_at(bytes + 2) << 16;
}

/* 1 for VRs whose length has 16 bits, 2 for those of 32 bits (PS3.5 7.1.2), 0 for anything else. */
#define VR(first, second) ((first - 'A') * 26 + (second - 'A'))
static const uint8_t WIDTHS[26 * 26] = {
    [VR('A', 'E')] = 1, [VR('A', 'S')] = 1, [VR('A', 'T')] = 1, [VR('C', 'S')] = 1,
    [VR('D', 'A')] = 1, [VR('D', 'S')] = 1, [VR('D', 'T')] = 1, [VR('F', 'D')] = 1,
    [VR('F', 'L')] = 1, [VR('I', 'S')] = 1, [VR('L', 'O')] = 1, [VR('L', 'T')] = 1,
    [VR('P', 'N')] = 1, [VR('S', 'H')] = 1, [VR('S', 'L')] = 1, [VR('S', 'S')] = 1,
    [VR('S', 'T')] = 1, [VR('T', 'M')] = 1, [VR('U', 'I')] = 1, [VR('U', 'L')] = 1,
    [VR('U', 'S')] = 1, [VR('O', 'B')] = 2, [VR('O', 'D')] = 2, [VR('O', 'F')] = 2,
    [VR('O', 'L')] = 2, [VR('O', 'V')] = 2, [VR('O', 'W')] = 2, [VR('S', 'Q')] = 2,
    [VR('S', 'V')] = 2, [VR('U', 'C')] = 2, [VR('U', 'N')] = 2, [VR('U', 'R')] = 2,
    [VR('U', 'T')] = 2, [VR('U', 'V')] = 2,
};

static inline int
is_capital(uint8_t letter)
{
    return letter >= 'A' && letter <= 'Z';
}

static inline int
width_of(const uint8_t *vr)
{
    return is_capital(vr[0]) && is_capital(vr[1]) ? WIDTHS[VR(vr[0], vr[1])] : 0;
}

static inline int
is_unknown(const uint8_t *vr)
{
    return vr[0] == 'U' && vr[1] == 'N';
}

/* One element header of 12 bytes or less at `bytes`: where its value begins, and its length. False
 * for one without a known VR. */
static inline int
read_element(const uint8_t *bytes, int is_explicit, uint32_t *skip, uint32_t *length)
{
    *skip = 8;
    if (!is_explicit) {
        *length = long_at(bytes + 4);
        return 1;
    }
    int width = width_of(bytes + 4);
    if (width == 1) {
        *length = short_at(bytes + 6);
        return 1;
    }
    *skip = 12;
    *length = long_at(bytes + 8);
    return width == 2;
}

static inline uint32_t
spread(uint32_t tag)
{
    return (tag * 2654435761u) >> 16;
}

static inline int32_t
standard_slot(const Plan *plan, uint32_t tag)
{
    for (uint32_t at = spread(tag) & plan->mask;; at = (at + 1) & plan->mask) {
        if (plan->table[at].slot < 0) {
            return -1;
        }
        if (plan->table[at].tag == tag) {
            return plan->table[at].slot;
        }
    }
}

/* The slot of a tag, in the blocks that the file has reserved so far (PS3.5 7.8.1). */
static inline int32_t
slot_of(const Plan *plan, const Row *row, uint32_t tag)
{
    if (!(tag & 1)) {
        return standard_slot(plan, tag);
    }
    uint32_t group = tag & 0xFFFF, block = tag >> 24, low = tag >> 16 & 0xFF;
    for (size_t i = 0; i < row->block_count; i++) {
        const Creator *creator = &plan->creators[row->blocks[i].number];
        if (row->blocks[i].block != block || creator->group != group) {
            continue;
        }
        for (size_t pair = 0; pair < creator->count; pair++) {
            uint32_t entry[2];
            memcpy(entry, creator->pairs + pair * sizeof entry, sizeof entry);
            if (entry[0] == low) {
                return (int32_t)entry[1];
            }
        }
    }
    return -1;
}

/* Note that a private creator reserves a block, if it is a wanted one. False where two reserve the
 * same block, or where there are too many. */
static int
reserve(const Plan *plan, Row *row, uint32_t tag, const uint8_t *name, size_t length)
{
    while (length && (name[0] == ' ' || name[0] == 0)) {
        name++, length--;
    }
    while (length && (name[length - 1] == ' ' || name[length - 1] == 0)) {
        length--;
    }
    uint32_t group = tag & 0xFFFF, block = tag >> 16;
    for (size_t number = 0; number < plan->creator_count; number++) {
        const Creator *creator = &plan->creators[number];
        if (creator->group != group || creator->length != length
            || memcmp(creator->name, name, length) != 0) {
            continue;
        }
        for (size_t i = 0; i < row->block_count; i++) {
            if (row->blocks[i].block == block
                && plan->creators[row->blocks[i].number].group == group) {
                return 0;
            }
        }
        if (row->block_count == MOST_BLOCKS) {
            return 0;
        }
        row->blocks[row->block_count].number = (uint32_t)number;
        row->blocks[row->block_count++].block = (uint8_t)block;
        return 1;
    }
    return 1;
}

/* Skip a value of undefined length at `*position`, up to the end of its delimiter. */
static enum outcome
skip_sequence(const uint8_t *bytes, uint64_t count, uint64_t *position, int is_explicit)
{
    /* Per open value of undefined length: the coding inside, and whether it holds items. */
    uint8_t explicits[MAX_DEPTH + 1], holds[MAX_DEPTH + 1];
    size_t depth = 1;
    uint64_t at = *position;
    explicits[0] = (uint8_t)is_explicit;
    holds[0] = 1;
    while (depth) {
        if (at + HEAD_BYTES > count) {
            return NEEDS_MORE;
        }
        const uint8_t *head = bytes + at;
        uint32_t tag = long_at(head), skip = 8, length = long_at(head + 4);
        int is_value = 0;
        if (tag == ITEM_END || tag == SEQUENCE_END) {
            depth--;
            at += 8;
            continue;
        }
        if (tag == ITEM) {
            if (!holds[depth - 1]) {
                return NOT_MINE;
            }
        } else if (holds[depth - 1]) {
            return NOT_MINE;
        } else {
            is_value = 1;
            if (!read_element(head, explicits[depth - 1], &skip, &length)) {
                return NOT_MINE;
            }
        }
        at += skip;
        if (length == UNDEFINED) {
            if (depth == MAX_DEPTH) {
                return NOT_MINE;
            }
            explicits[depth] = explicits[depth - 1]
                && !(is_value && is_unknown(head + 4));
            holds[depth++] = (uint8_t)is_value;
        } else {
            at += length;
        }
        if (at > count) {
            return NEEDS_MORE;
        }
    }
    *position = at;
    return MINE;
}

/* The transfer syntax in the file meta information (PS3.10 7.1); `*position` becomes that of the
 * data set. */
static enum outcome
walk_meta(const Plan *plan, const uint8_t *bytes, uint64_t count, uint64_t *position, Row *row)
{
    uint64_t at = BEHIND_PREFIX;
    Field *syntax = &row->fields[plan->syntax_slot];
    int has_syntax = 0;
    for (int number = 0;; number++) {
        uint32_t skip, length;
        if (at + HEAD_BYTES > count) {
            return NEEDS_MORE;
        }
        if (short_at(bytes + at) != 2) {
            break;
        }
        if (number == MOST_META || !read_element(bytes + at, 1, &skip, &length)
            || length == UNDEFINED) {
            return NOT_MINE;
        }
        if (at + skip + length > count) {
            return NEEDS_MORE;
        }
        if (short_at(bytes + at + 2) == 0x0010) {
            if (has_syntax || length > LONGEST) {
                return NOT_MINE;
            }
            has_syntax = 1;
            syntax->at = (uint32_t)(at + skip);
            syntax->length = length;
        }
        at += skip + length;
    }
    *position = at;
    return has_syntax ? MINE : NOT_MINE;
}

/* Whether a transfer syntax begins as those of compressed frames do. */
static int
is_compressed(const uint8_t *uid, size_t length)
{
    static const char coded[] = "1.2.840.10008.1.2.4.", rle[] = "1.2.840.10008.1.2.5";
    return (length >= sizeof coded - 1 && memcmp(uid, coded, sizeof coded - 1) == 0)
        || (length >= sizeof rle - 1 && memcmp(uid, rle, sizeof rle - 1) == 0);
}

/* 1 for explicit, 0 for implicit VRs, both in little endian; -1 for another transfer syntax. */
static int
coding_of(const uint8_t *uid, size_t length)
{
    static const char explicit_little[] = "1.2.840.10008.1.2.1";
    const size_t longest = sizeof explicit_little - 1;
    if (is_compressed(uid, length)) {
        return 1;
    }
    if (length && (uid[length - 1] == 0 || uid[length - 1] == ' ')) {
        length--;
    }
    if (length == longest && memcmp(uid, explicit_little, length) == 0) {
        return 1;
    }
    /* Implicit little endian has the same UID without its last part. */
    return length == longest - 2 && memcmp(uid, explicit_little, length) == 0 ? 0 : -1;
}

static enum outcome
walk_data_set(const Plan *plan, const uint8_t *bytes, uint64_t count, uint64_t at, Row *row)
{
    const Field *syntax = &row->fields[plan->syntax_slot];
    int is_explicit = coding_of(bytes + syntax->at, syntax->length);
    /* The caller has seen the 12 bytes behind the meta information. The first element must have a
     * VR exactly in an explicit syntax, and a group that is no swapped one. */
    int has_vr = is_capital(bytes[at + 4]) && is_capital(bytes[at + 5]);
    if (is_explicit != has_vr || (bytes[at] == 0 && bytes[at + 1] != 0)) {
        return NOT_MINE;
    }
    for (;;) {
        if (at + HEAD_BYTES > count) {
            return NEEDS_MORE;
        }
        const uint8_t *head = bytes + at;
        uint32_t tag = long_at(head), skip, length;
        if ((tag & 0xFFFF) == 0xFFFE || tag == FLOAT_PIXEL_DATA || tag == DOUBLE_FLOAT_PIXEL_DATA
            || !read_element(head, is_explicit, &skip, &length)) {
            return NOT_MINE;
        }
        uint64_t value = at + skip, end = value + length;
        if (tag == PIXEL_DATA) {
            row->pixels_at = value;
            row->pixels_length = length;
            row->is_encapsulated = is_compressed(bytes + syntax->at, syntax->length);
            return (length == UNDEFINED) == row->is_encapsulated ? MINE : NOT_MINE;
        }
        int32_t slot = slot_of(plan, row, tag);
        uint64_t value_end = end;
        if (length == UNDEFINED) {
            int is_inner_explicit = is_explicit && !is_unknown(head + 4);
            end = value;
            enum outcome skipped = skip_sequence(bytes, count, &end, is_inner_explicit);
            if (skipped != MINE) {
                return skipped;
            }
            value_end = end - 8;
        }
        if (end > count) {
            return NEEDS_MORE;
        }
        if (slot >= 0) {
            if (value_end - value > LONGEST) {
                return NOT_MINE;
            }
            row->fields[slot].at = (uint32_t)value;
            row->fields[slot].length = (uint32_t)(value_end - value);
        } else if (tag & 1 && length != UNDEFINED && tag >= 0x00100000u && tag <= 0x00FFFFFFu
                   && !reserve(plan, row, tag, bytes + value, (size_t)length)) {
            return NOT_MINE;
        }
        at = end;
    }
}

/* Walk over the first `count` bytes of a file up to its pixel data. */
static enum outcome
walk(const Plan *plan, const uint8_t *bytes, uint64_t count, Row *row)
{
    memset(row->fields, 0, plan->slots * sizeof(Field));
    row->block_count = 0;
    if (count < BEHIND_PREFIX + HEAD_BYTES || bytes[0] != 0
        || memcmp(bytes + 128, "DICM\x02\0", 6) != 0) {
        return NOT_MINE;
    }
    uint64_t at;
    enum outcome meta = walk_meta(plan, bytes, count, &at, row);
    return meta == MINE ? walk_data_set(plan, bytes, count, at, row) : meta;
}

static int
obeys(uint8_t rule, const uint8_t *value, uint32_t length)
{
    if (rule & RULE_ABSENT && length) {
        return 0;
    }
    if (rule & RULE_UID && (!length || value[0] < '0')) {
        return 0;
    }
    if (rule & RULE_ASCII) {
        uint8_t bits = 0;
        for (uint32_t i = 0; i < length; i++) {
            bits |= value[i];
            if (value[i] == 0x1B) {
                return 0;
            }
        }
        return bits < 0x80;
    }
    return 1;
}

static int
is_ordinary(const Plan *plan, const uint8_t *bytes, Row *row)
{
    for (size_t slot = 0; slot < plan->slots; slot++) {
        Field *field = &row->fields[slot];
        uint8_t rule = plan->rules[slot];
        if (rule && !obeys(rule, bytes + field->at, field->length)) {
            return 0;
        }
        if (rule & RULE_PRESENCE && field->length > 1) {
            field->length = 1;
        }
    }
    return 1;
}

/* --- distinct values, and rows of their numbers ------------------------------------------------ */

typedef struct {
    uint64_t hash;
    uint64_t at;
    uint32_t length;
    uint32_t slot;
    /* Number of the value in its slot. */
    int32_t code;
} Value;

typedef struct {
    uint8_t *bytes;
    uint64_t used, room;
    Value *values;
    uint64_t count, most;
    /* Numbers of values plus 1, by hash; 0 is free. The size is a power of 2. */
    uint32_t *index;
    uint64_t index_size;
    /* Number of the last value per slot, and of the values so far. */
    uint32_t *last;
    int32_t *counts;
    uint64_t seed;
} Store;

static uint64_t
hash_of(uint64_t seed, uint32_t slot, const uint8_t *value, uint32_t length)
{
    uint64_t hash = seed ^ ((uint64_t)slot << 32 | length);
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, value, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
        value += 8, length -= 8;
    }
    uint64_t rest = 0;
    for (uint32_t i = 0; i < length; i++) {
        rest = rest << 8 | value[i];
    }
    hash = (hash ^ rest) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

/* Memory for `needed` elements of a size, doubled; NULL leaves the old block as it is. */
static void *
grown(void *block, uint64_t *room, uint64_t needed, size_t size)
{
    uint64_t wanted = *room ? *room : 1024;
    while (wanted < needed) {
        wanted *= 2;
    }
    if (wanted > PTRDIFF_MAX / size) {
        return NULL;
    }
    void *more = realloc(block, (size_t)wanted * size);
    if (more) {
        *room = wanted;
    }
    return more;
}

static int
index_again(Store *store)
{
    uint64_t size = store->index_size ? store->index_size * 2 : 1024;
    if (size > UINT32_MAX) {
        return -1;
    }
    uint32_t *index = calloc((size_t)size, sizeof *index);
    if (!index) {
        return -1;
    }
    for (uint64_t number = 0; number < store->count; number++) {
        uint64_t at = store->values[number].hash & (size - 1);
        while (index[at]) {
            at = (at + 1) & (size - 1);
        }
        index[at] = (uint32_t)number + 1;
    }
    free(store->index);
    store->index = index;
    store->index_size = size;
    return 0;
}

static int
equals(const Store *store, const Value *value, const uint8_t *bytes, uint32_t length)
{
    return value->length == length
        && (length == 0 || memcmp(store->bytes + value->at, bytes, length) == 0);
}

/* Return the number of a value among all, adding it if it is new; -1 without memory. */
static int64_t
number_of(Store *store, uint32_t slot, const uint8_t *bytes, uint32_t length)
{
    if (2 * (store->count + 1) > store->index_size && index_again(store) < 0) {
        return -1;
    }
    uint64_t hash = hash_of(store->seed, slot, bytes, length);
    uint64_t at = hash & (store->index_size - 1);
    for (; store->index[at]; at = (at + 1) & (store->index_size - 1)) {
        const Value *known = &store->values[store->index[at] - 1];
        if (known->hash == hash && known->slot == slot && equals(store, known, bytes, length)) {
            return store->index[at] - 1;
        }
    }
    if (store->count == store->most) {
        void *more = grown(store->values, &store->most, store->count + 1, sizeof(Value));
        if (!more) {
            return -1;
        }
        store->values = more;
    }
    if (store->used + length > store->room || !store->bytes) {
        void *more = grown(store->bytes, &store->room, store->used + length, 1);
        if (!more) {
            return -1;
        }
        store->bytes = more;
    }
    if (length) {
        memcpy(store->bytes + store->used, bytes, length);
    }
    store->values[store->count] = (Value){hash, store->used, length, slot, store->counts[slot]++};
    store->used += length;
    store->index[at] = (uint32_t)store->count + 1;
    return (int64_t)store->count++;
}

/* Write the numbers of the values of a row; -1 without memory. */
static int
add_row(Store *store, const Plan *plan, const uint8_t *bytes, const Row *row, int32_t *codes)
{
    for (size_t slot = 0; slot < plan->slots; slot++) {
        const uint8_t *value = bytes + row->fields[slot].at;
        uint32_t length = row->fields[slot].length;
        uint32_t last = store->last[slot];
        if (!store->counts[slot] || !equals(store, &store->values[last], value, length)) {
            int64_t number = number_of(store, (uint32_t)slot, value, length);
            if (number < 0) {
                return -1;
            }
            store->last[slot] = last = (uint32_t)number;
        }
        codes[slot] = store->values[last].code;
    }
    return 0;
}

static void
free_store(Store *store)
{
    free(store->bytes);
    free(store->values);
    free(store->index);
    free(store->last);
    free(store->counts);
}

/* --- files ------------------------------------------------------------------------------------- */

/* Numbers per file: its size, modification and change time in ns, inode, place and length of the
 * pixel data, and whether these are encapsulated. */
#define STATE_NUMBERS 7

typedef struct {
    int32_t *places;
    int64_t *states;
    int32_t *codes;
    size_t rows;
} Found;

#ifdef O_PATH
#define FOLDER_FLAGS (O_PATH | O_DIRECTORY | O_CLOEXEC)
#else
#define FOLDER_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC)
#endif
/* The longest path of a folder that is opened. */
#define MOST_PATH 4096

static void
put_state(const struct stat *status, const Row *row, int64_t *state)
{
    state[0] = (int64_t)status->st_size;
    state[1] = nanoseconds(status->MODIFIED);
    state[2] = nanoseconds(status->CHANGED);
    state[3] = (int64_t)((uint64_t)status->st_ino & INT64_MAX);
    state[4] = (int64_t)row->pixels_at;
    state[5] = (int64_t)row->pixels_length;
    state[6] = row->is_encapsulated;
}

static uint64_t
least(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

/* Read the header of an item at `at`; its length, or -1 for anything else. */
static int64_t
item_at(int descriptor, uint64_t at, uint32_t tag)
{
    uint8_t head[8];
    if (pread(descriptor, head, sizeof head, (off_t)at) != (ssize_t)sizeof head
        || long_at(head) != tag) {
        return -1;
    }
    return (int64_t)long_at(head + 4);
}

/* Find the only fragment of encapsulated pixel data (PS3.5 A.4): a table of one offset at most, the
 * fragment, and the delimiter that ends the file. */
static enum outcome
locate_fragment(int descriptor, uint64_t size, Row *row)
{
    int64_t table = item_at(descriptor, row->pixels_at, ITEM);
    if (table < 0 || table >= 8) {
        return NOT_MINE;
    }
    uint64_t start = row->pixels_at + 8 + (uint64_t)table;
    int64_t length = item_at(descriptor, start, ITEM);
    if (length < 0) {
        return NOT_MINE;
    }
    uint64_t end = start + 8 + (uint64_t)length;
    if ((end + 8 != size && end + 9 != size) || item_at(descriptor, end, SEQUENCE_END) < 0) {
        return NOT_MINE;
    }
    row->pixels_at = start;
    row->pixels_length = end - start;
    return MINE;
}

/* Read and walk one open file. `*first` bytes are read at first; it grows to what files need. */
static enum outcome
read_open(const Plan *plan, int descriptor, uint8_t *buffer, uint64_t *first, Row *row,
          int64_t *state)
{
    struct stat status;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size <= 0) {
        return NOT_MINE;
    }
    uint64_t size = (uint64_t)status.st_size, count = 0, wanted = least(*first, size);
    enum outcome walked = NEEDS_MORE;
    while (walked == NEEDS_MORE && count < wanted) {
        ssize_t got = pread(descriptor, buffer + count, (size_t)(wanted - count), (off_t)count);
        if (got < 0 || (uint64_t)got != wanted - count) {
            return NOT_MINE;
        }
        count = wanted;
        walked = walk(plan, buffer, count, row);
        wanted = least(least(count * 4, MOST_BYTES), size);
    }
    if (walked != MINE || !is_ordinary(plan, buffer, row)) {
        return NOT_MINE;
    }
    while (*first < row->pixels_at) {
        *first *= 2;
    }
    if (row->is_encapsulated && locate_fragment(descriptor, size, row) != MINE) {
        return NOT_MINE;
    }
    put_state(&status, row, state);
    return MINE;
}

void
leave_folder(Folder *folder)
{
    if (folder->descriptor >= 0) {
        close(folder->descriptor);
    }
    *folder = NO_FOLDER;
}

/* Open the folder of `length` characters of a path; -1 where that cannot be done. */
static int
open_folder(const char *path, size_t length)
{
    char name[MOST_PATH];
    if (length >= sizeof name) {
        return -1;
    }
    memcpy(name, path, length);
    name[length] = 0;
    return open(name, FOLDER_FLAGS);
}

const char **
paths_in(PyObject *tuple)
{
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple of paths");
        return NULL;
    }
    size_t count = (size_t)PyTuple_Size(tuple);
    const char **paths = calloc(count + 1, sizeof *paths);
    if (!paths) {
        PyErr_NoMemory();
        return NULL;
    }
    for (size_t place = 0; place < count; place++) {
        char *path;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(tuple, (Py_ssize_t)place), &path, &length)
            < 0) {
            free(paths);
            return NULL;
        }
        paths[place] = memchr(path, 0, (size_t)length) ? NULL : path;
    }
    return paths;
}

/* Return the name of a file in the folder that is open, or its whole path where none is. */
static const char *
name_in(Folder *folder, const char *path)
{
    const char *end = strrchr(path, '/');
    size_t length = end ? (size_t)(end - path) + 1 : 0;
    if (!length || folder->length != length || memcmp(folder->path, path, length) != 0) {
        leave_folder(folder);
        *folder = (Folder){path, length, -1};
    } else if (folder->descriptor < 0) {
        folder->descriptor = open_folder(path, length);
    }
    return folder->descriptor < 0 ? path : path + length;
}

int
open_file(Folder *folder, const char *path, int flags)
{
    const char *name = name_in(folder, path);
    return folder->descriptor < 0 ? open(name, flags) : openat(folder->descriptor, name, flags);
}

int
look_up_file(Folder *folder, const char *path, struct stat *status)
{
    const char *name = name_in(folder, path);
    return folder->descriptor < 0
               ? lstat(name, status)
               : fstatat(folder->descriptor, name, status, AT_SYMLINK_NOFOLLOW);
}

/* Read the files; return -1 without memory. */
static int
read_all(const Plan *plan, Store *store, const char *const *paths, size_t count, int flags,
         uint64_t *first, Row *row, uint8_t *buffer, Found *found)
{
    Folder folder = NO_FOLDER;
    int done = 0;
    for (size_t place = 0; place < count && done == 0; place++) {
        int descriptor = paths[place] ? open_file(&folder, paths[place], flags) : -1;
        if (descriptor < 0) {
            continue;
        }
        enum outcome read = read_open(plan, descriptor, buffer, first, row,
                                      found->states + found->rows * STATE_NUMBERS);
        close(descriptor);
        if (read != MINE) {
            continue;
        }
        done = add_row(store, plan, buffer, row, found->codes + found->rows * plan->slots);
        found->places[found->rows++] = (int32_t)place;
    }
    leave_folder(&folder);
    return done;
}

/* --- what Python hands over, and gets ---------------------------------------------------------- */

/* Fill a plan from (tags, creators, rules, slot of the transfer syntax); the plan borrows its
 * bytes. */
static int
fill_plan(Plan *plan, PyObject *tags, PyObject *creators, PyObject *rules, Py_ssize_t syntax_slot)
{
    char *pairs, *rule_bytes;
    Py_ssize_t length, slots;
    if (PyBytes_AsStringAndSize(tags, &pairs, &length) < 0
        || PyBytes_AsStringAndSize(rules, &rule_bytes, &slots) < 0) {
        return -1;
    }
    size_t count = (size_t)length / sizeof(Entry);
    if (slots < 1 || slots > MOST_SLOTS || syntax_slot < 0 || syntax_slot >= slots
        || count > MOST_SLOTS) {
        PyErr_SetString(PyExc_ValueError, "the plan has too many slots, or none");
        return -1;
    }
    plan->rules = (const uint8_t *)rule_bytes;
    plan->slots = (size_t)slots;
    plan->syntax_slot = (size_t)syntax_slot;
    size_t size = 64;
    while (size < 4 * count) {
        size *= 2;
    }
    plan->mask = (uint32_t)(size - 1);
    plan->table = malloc(size * sizeof(Entry));
    plan->creator_count = (size_t)PyTuple_Size(creators);
    plan->creators = calloc(plan->creator_count + 1, sizeof(Creator));
    if (!plan->table || !plan->creators) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t at = 0; at < size; at++) {
        plan->table[at] = (Entry){0, -1};
    }
    for (size_t number = 0; number < count; number++) {
        Entry entry;
        memcpy(&entry, pairs + number * sizeof entry, sizeof entry);
        if (entry.slot < 0 || entry.slot >= slots) {
            PyErr_SetString(PyExc_ValueError, "a slot is beyond those of the plan");
            return -1;
        }
        uint32_t at = spread(entry.tag) & plan->mask;
        while (plan->table[at].slot >= 0) {
            at = (at + 1) & plan->mask;
        }
        plan->table[at] = entry;
    }
    for (size_t number = 0; number < plan->creator_count; number++) {
        Creator *creator = &plan->creators[number];
        PyObject *item = PyTuple_GetItem(creators, (Py_ssize_t)number);
        PyObject *name, *pairs;
        unsigned int group;
        if (!item || !PyArg_ParseTuple(item, "ISS", &group, &name, &pairs)) {
            return -1;
        }
        *creator = (Creator){(uint16_t)group, PyBytes_AsString(name), (size_t)PyBytes_Size(name),
                             PyBytes_AsString(pairs),
                             (size_t)PyBytes_Size(pairs) / sizeof(uint32_t[2])};
        for (size_t pair = 0; pair < creator->count; pair++) {
            uint32_t entry[2];
            memcpy(entry, creator->pairs + pair * sizeof entry, sizeof entry);
            if (entry[1] >= (uint32_t)slots) {
                PyErr_SetString(PyExc_ValueError, "a slot is beyond those of the plan");
                return -1;
            }
        }
    }
    return 0;
}

/* The distinct values as a list of bytes per slot. */
static PyObject *
values_of(const Store *store, size_t slots)
{
    PyObject *result = PyList_New((Py_ssize_t)slots);
    if (!result) {
        return NULL;
    }
    for (size_t slot = 0; slot < slots; slot++) {
        PyObject *values = PyList_New(store->counts[slot]);
        if (!values || PyList_SetItem(result, (Py_ssize_t)slot, values) < 0) {
            Py_DECREF(result);
            return NULL;
        }
    }
    for (uint64_t number = 0; number < store->count; number++) {
        const Value *value = &store->values[number];
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)store->bytes + value->at,
                                                    (Py_ssize_t)value->length);
        if (!bytes
            || PyList_SetItem(PyList_GetItem(result, (Py_ssize_t)value->slot), value->code, bytes)
                < 0) {
            Py_DECREF(result);
            return NULL;
        }
    }
    return result;
}

static PyObject *
bytes_of(const void *memory, size_t length)
{
    return PyBytes_FromStringAndSize(memory, (Py_ssize_t)length);
}

static PyObject *
result_of(const Found *found, const Store *store, size_t slots, uint64_t first)
{
    PyObject *values = values_of(store, slots);
    if (!values) {
        return NULL;
    }
    /* An absent object ends in MemoryError, and the others are released. */
    return Py_BuildValue("(NNNNK)", bytes_of(found->places, found->rows * sizeof(int32_t)),
                         bytes_of(found->states, found->rows * STATE_NUMBERS * sizeof(int64_t)),
                         bytes_of(found->codes, found->rows * slots * sizeof(int32_t)), values,
                         (unsigned long long)first);
}

/* read_heads(paths, plan, flags, first, seed): `paths` is a tuple of bytes. */
static PyObject *
read_heads(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *paths, *tags, *creators, *rules, *result = NULL;
    Py_ssize_t syntax_slot;
    int flags;
    unsigned long long first, seed;
    if (!PyArg_ParseTuple(args, "O!(SO!Sn)iKK", &PyTuple_Type, &paths, &tags, &PyTuple_Type,
                          &creators, &rules, &syntax_slot, &flags, &first, &seed)) {
        return NULL;
    }
    Plan plan = {0};
    Store store = {.seed = seed};
    Row row = {0};
    Found found = {0};
    const char **names = NULL;
    uint8_t *buffer = NULL;
    size_t count = (size_t)PyTuple_Size(paths);
    uint64_t first_bytes = 1024;
    while (first_bytes < least(first, MOST_BYTES)) {
        first_bytes *= 2;
    }
    if (count > 1 << 16) {
        PyErr_SetString(PyExc_ValueError, "more than 65,536 files at once");
        return NULL;
    }
    if (fill_plan(&plan, tags, creators, rules, syntax_slot) < 0) {
        goto end;
    }
    names = paths_in(paths);
    if (!names) {
        goto end;
    }
    buffer = malloc(MOST_BYTES);
    row.fields = malloc(plan.slots * sizeof(Field));
    store.last = calloc(plan.slots, sizeof *store.last);
    store.counts = calloc(plan.slots, sizeof *store.counts);
    found.places = malloc((count + 1) * sizeof *found.places);
    found.states = malloc((count + 1) * STATE_NUMBERS * sizeof *found.states);
    found.codes = malloc((count + 1) * plan.slots * sizeof *found.codes);
    if (!buffer || !row.fields || !store.last || !store.counts || !found.places
        || !found.states || !found.codes) {
        PyErr_NoMemory();
        goto end;
    }
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = read_all(&plan, &store, names, count, flags, &first_bytes, &row, buffer, &found);
    Py_END_ALLOW_THREADS
    if (done < 0) {
        PyErr_NoMemory();
        goto end;
    }
    result = result_of(&found, &store, plan.slots, first_bytes);
end:
    free(plan.table);
    free(plan.creators);
    free(names);
    free(buffer);
    free(row.fields);
    free(found.places);
    free(found.states);
    free(found.codes);
    free_store(&store);
    return result;
}
#endif

PyMethodDef walk_methods[] = {
#ifndef _WIN32
    {"read_heads", read_heads, METH_VARARGS,
     "Read the heads of ordinary files: places, states, codes, values, first bytes."},
#endif
    {NULL, NULL, 0, NULL},
};
