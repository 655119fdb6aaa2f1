/* Stored values to modality values and network values, each sample read once.
 *
 * The rule: a function gets contiguous memory, and the numbers that the pure twin has decided. It
 * works through the samples in runs that stay in the first cache, by loops that compilers
 * vectorise. Integers wrap as unsigned ones do; floats are computed in double and rounded once, and
 * no multiplication is fused with an addition. */
#include "kernels.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Samples of a run. */
#define RUN 2048

/* Loops that are compiled a second time, for processors with wider registers. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) &&                            \
    !defined(__SANITIZE_ADDRESS__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#define INLINE static inline __attribute__((always_inline))
#else
#define WIDE
#define INLINE static inline
#endif

/* Before a loop whose values may lie where its samples were, at the same places. */
#if defined(__clang__)
#define IN_PLACE _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define IN_PLACE _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define IN_PLACE __pragma(loop(ivdep))
#else
#define IN_PLACE
#endif

#define SWAP8(v) (v)
#define SWAP16(v) ((uint16_t)((uint16_t)(v) << 8 | (uint16_t)(v) >> 8))
#define SWAP32(v)                                                                                  \
    ((v) << 24 | ((v) << 8 & 0x00FF0000u) | ((v) >> 8 & 0x0000FF00u) | (v) >> 24)

/* A bit per value of bytes that are 0 or 1, zeros up to a multiple of 16. */
INLINE void
pack(const uint8_t *restrict is, Py_ssize_t count, uint8_t *restrict packed)
{
    const Py_ssize_t bytes = BYTES_OF_BITS(count);
#ifdef __SSE2__
    /* Every x86-64 has this: the highest bits of 16 bytes. */
    for (Py_ssize_t i = 0; i < bytes; i += 2) {
        __m128i sixteen = _mm_loadu_si128((const __m128i *)(is + 8 * i));
        int highest = _mm_movemask_epi8(_mm_slli_epi16(sixteen, 7));
        packed[i] = (uint8_t)highest, packed[i + 1] = (uint8_t)(highest >> 8);
    }
#else
    for (Py_ssize_t i = 0; i < bytes; i++) {
        packed[i] = 0;
        for (int n = 0; n < 8; n++) {
            packed[i] |= (uint8_t)(is[8 * i + n] << n);
        }
    }
#endif
}

/* Byte order and shifts of samples of one type, S with the unsigned U of its size. */
#define STORED(NAME, S, U, SWAP)                                                                   \
    INLINE void NAME##_meant(const Pass *pass, S *restrict run, Py_ssize_t count)                  \
    {                                                                                              \
        const int left = pass->left, right = pass->right;                                          \
        if (pass->swaps) {                                                                         \
            for (Py_ssize_t i = 0; i < count; i++) {                                               \
                run[i] = (S)SWAP((U)run[i]);                                                       \
            }                                                                                      \
        }                                                                                          \
        if (left || right) {                                                                       \
            for (Py_ssize_t i = 0; i < count; i++) {                                               \
                run[i] = (S)((S)((uint32_t)(U)run[i] << left) >> right);                           \
            }                                                                                      \
        }                                                                                          \
    }

STORED(u8, uint8_t, uint8_t, SWAP8)
STORED(i8, int8_t, uint8_t, SWAP8)
STORED(u16, uint16_t, uint16_t, SWAP16)
STORED(i16, int16_t, uint16_t, SWAP16)
STORED(u32, uint32_t, uint32_t, SWAP32)
STORED(i32, int32_t, uint32_t, SWAP32)

/* A bit per sample that is padding, as `pack` has them; 0 where none is. The comparison is one of
 * unsigned distances. */
#define PADDING(NAME, S, U)                                                                        \
    INLINE int NAME##_padding(const Pass *pass, const S *restrict run, Py_ssize_t count,           \
                              uint8_t *restrict packed)                                            \
    {                                                                                              \
        uint8_t is[RUN + 16];                                                                      \
        const U low = (U)pass->low, span = (U)((U)pass->high - (U)pass->low);                      \
        const U mask = (U)pass->mask;                                                              \
        if (span == 0) {                                                                           \
            for (Py_ssize_t i = 0; i < count; i++) {                                               \
                is[i] = ((U)run[i] & mask) == low;                                                 \
            }                                                                                      \
        }                                                                                          \
        else {                                                                                     \
            for (Py_ssize_t i = 0; i < count; i++) {                                               \
                is[i] = (U)(((U)run[i] & mask) - low) <= span;                                     \
            }                                                                                      \
        }                                                                                          \
        if (memchr(is, 1, (size_t)count) == NULL) {                                                \
            return 0;                                                                              \
        }                                                                                          \
        memset(is + count, 0, 16);                                                                 \
        pack(is, count, packed);                                                                   \
        return 1;                                                                                  \
    }

PADDING(u8, uint8_t, uint8_t)
PADDING(i8, int8_t, uint8_t)
PADDING(u32, uint32_t, uint32_t)
PADDING(i32, int32_t, uint32_t)

#ifdef __SSE2__
/* Sixteen values at once become sixteen bits, in half of the time. */
INLINE int
u16_padding(const Pass *pass, const uint16_t *restrict run, Py_ssize_t count,
            uint8_t *restrict packed)
{
    const uint16_t lowest = (uint16_t)pass->low, highest = (uint16_t)pass->high;
    const __m128i low = _mm_set1_epi16((short)lowest), none = _mm_setzero_si128();
    const __m128i span = _mm_set1_epi16((short)(uint16_t)(highest - lowest));
    const __m128i mask = _mm_set1_epi16((short)(uint16_t)pass->mask);
    int found = 0;
    Py_ssize_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m128i one = _mm_loadu_si128((const __m128i *)(run + i));
        __m128i other = _mm_loadu_si128((const __m128i *)(run + i + 8));
        one = _mm_subs_epu16(_mm_sub_epi16(_mm_and_si128(one, mask), low), span);
        other = _mm_subs_epu16(_mm_sub_epi16(_mm_and_si128(other, mask), low), span);
        one = _mm_packs_epi16(_mm_cmpeq_epi16(one, none), _mm_cmpeq_epi16(other, none));
        int sixteen = _mm_movemask_epi8(one);
        packed[i / 8] = (uint8_t)sixteen, packed[i / 8 + 1] = (uint8_t)(sixteen >> 8);
        found |= sixteen;
    }
    if (i < count) {
        int rest = 0;
        for (Py_ssize_t n = i; n < count; n++) {
            uint16_t distance = (uint16_t)((run[n] & (uint16_t)pass->mask) - lowest);
            rest |= (distance <= (uint16_t)(highest - lowest)) << (n - i);
        }
        packed[i / 8] = (uint8_t)rest, packed[i / 8 + 1] = (uint8_t)(rest >> 8);
        found |= rest;
    }
    return found;
}

INLINE int
i16_padding(const Pass *pass, const int16_t *restrict run, Py_ssize_t count,
            uint8_t *restrict packed)
{
    return u16_padding(pass, (const uint16_t *)run, count, packed);
}
#else
PADDING(u16, uint16_t, uint16_t)
PADDING(i16, int16_t, uint16_t)
#endif

/* Stored values, whose upper bits may be anything, to integers of the unsigned type T: the final
 * values fit, so wrapped ones in between do no harm. */
#define TO_INTEGERS(NAME, S, U, TO, T)                                                             \
    INLINE int NAME##_to_##TO(const Pass *pass, const S *run, void *target,                        \
                              Py_ssize_t count)                                                    \
    {                                                                                              \
        T *out = target;                                                                           \
        const U mask = (U)pass->mask;                                                              \
        const T slope = (T)pass->slope, intercept = (T)pass->intercept;                            \
        if (slope == 1) {                                                                          \
            IN_PLACE                                                                               \
            for (Py_ssize_t i = 0; i < count; i++) {                                               \
                out[i] = (T)((T)(S)((U)run[i] & mask) + intercept);                                \
            }                                                                                      \
        }                                                                                          \
        else {                                                                                     \
            IN_PLACE                                                                               \
            for (Py_ssize_t i = 0; i < count; i++) {                                               \
                T stored = (T)(S)((U)run[i] & mask);                                               \
                out[i] = (T)((uint32_t)stored * (uint32_t)slope + intercept);                      \
            }                                                                                      \
        }                                                                                          \
        return 0;                                                                                  \
    }

#define TO_FLOATS(NAME, S, U)                                                                      \
    INLINE int NAME##_to_f32(const Pass *pass, const S *run, void *target, Py_ssize_t count)       \
    {                                                                                              \
        float *out = target;                                                                       \
        const U mask = (U)pass->mask;                                                              \
        const double slope = pass->slope_f, intercept = pass->intercept_f;                         \
        int beyond = 0;                                                                            \
        IN_PLACE                                                                                   \
        for (Py_ssize_t i = 0; i < count; i++) {                                                   \
            double product = (double)(S)((U)run[i] & mask) * slope;                                \
            out[i] = (float)(product + intercept);                                                 \
            beyond |= !(fabsf(out[i]) <= 3.402823466e38f);                                         \
        }                                                                                          \
        return beyond;                                                                             \
    }

/* Put the bits of so many values in their place, from value `first` on. */
INLINE void
place(const uint8_t *restrict packed, Py_ssize_t count, uint8_t *restrict bits, Py_ssize_t first)
{
    const int shift = (int)(first % 8);
    const Py_ssize_t bytes = BYTES_OF_BITS(count);
    bits += first / 8;
    if (shift == 0) {
        memcpy(bits, packed, (size_t)bytes);
        return;
    }
    for (Py_ssize_t i = 0; i < bytes; i++) {
        bits[i] |= (uint8_t)(packed[i] << shift);
        /* The last byte may be the last one that there is. */
        if (packed[i] >> (8 - shift)) {
            bits[i + 1] |= (uint8_t)(packed[i] >> (8 - shift));
        }
    }
}

/* All samples, run by run; `out` may be the memory of `samples` where both sizes are equal. A run is
 * copied where it changes before it is read again, and where it is not aligned. */
#define PASS(NAME, S, TO, SIZE)                                                                    \
    WIDE static void NAME##_pass_##TO(Change *change, const char *samples, char *out,              \
                                      uint8_t *bits, Py_ssize_t first, Py_ssize_t count)           \
    {                                                                                              \
        const Pass *pass = &change->pass;                                                          \
        const int copies = pass->swaps || pass->left || pass->right ||                             \
                           (uintptr_t)samples % sizeof(S) != 0;                                    \
        S copy[RUN];                                                                               \
        uint8_t packed[RUN / 8 + 2];                                                               \
        for (Py_ssize_t start = 0; start < count; start += RUN) {                                  \
            Py_ssize_t length = count - start < RUN ? count - start : RUN;                         \
            const S *run = (const S *)(samples + start * (Py_ssize_t)sizeof(S));                   \
            if (copies) {                                                                          \
                memcpy(copy, run, (size_t)length * sizeof(S));                                     \
                NAME##_meant(pass, copy, length);                                                  \
                run = copy;                                                                        \
            }                                                                                      \
            if (pass->has_padding && NAME##_padding(pass, run, length, packed)) {                  \
                change->found |= CHANGE_FOUND;                                                     \
                place(packed, length, bits, first + start);                                        \
            }                                                                                      \
            if (NAME##_to_##TO(pass, run, out + start * SIZE, length)) {                           \
                change->found |= CHANGE_BEYOND;                                                    \
            }                                                                                      \
        }                                                                                          \
    }

#define ALL(NAME, S, U)                                                                            \
    TO_INTEGERS(NAME, S, U, i16, uint16_t)                                                         \
    TO_INTEGERS(NAME, S, U, i32, uint32_t)                                                         \
    TO_FLOATS(NAME, S, U)                                                                          \
    PASS(NAME, S, i16, 2)                                                                          \
    PASS(NAME, S, i32, 4)                                                                          \
    PASS(NAME, S, f32, 4)

ALL(u8, uint8_t, uint8_t)
ALL(i8, int8_t, uint8_t)
ALL(u16, uint16_t, uint16_t)
ALL(i16, int16_t, uint16_t)
ALL(u32, uint32_t, uint32_t)
ALL(i32, int32_t, uint32_t)

typedef void Apply(Change *, const char *, char *, uint8_t *, Py_ssize_t, Py_ssize_t);

typedef struct {
    char code; /* of struct and array: B b H h I i */
    Py_ssize_t size;
    Apply *to[3]; /* h, i, f */
} Kind;

static const Kind kinds[] = {
    {'B', 1, {u8_pass_i16, u8_pass_i32, u8_pass_f32}},
    {'b', 1, {i8_pass_i16, i8_pass_i32, i8_pass_f32}},
    {'H', 2, {u16_pass_i16, u16_pass_i32, u16_pass_f32}},
    {'h', 2, {i16_pass_i16, i16_pass_i32, i16_pass_f32}},
    {'I', 4, {u32_pass_i16, u32_pass_i32, u32_pass_f32}},
    {'i', 4, {i32_pass_i16, i32_pass_i32, i32_pass_f32}},
};

static const Kind *
kind_of(int code)
{
    for (size_t number = 0; number < sizeof(kinds) / sizeof(kinds[0]); number++) {
        if (kinds[number].code == code) {
            return &kinds[number];
        }
    }
    return NULL;
}

/* Entries are moved as bits: a float register could change those of a NaN. */
#define LOOK_UP(NAME, T)                                                                           \
    static void NAME(const char *samples, const uint32_t *restrict entries,                        \
                     uint32_t *restrict out, Py_ssize_t count)                                     \
    {                                                                                              \
        const T *restrict row = (const T *)samples;                                                \
        for (Py_ssize_t i = 0; i < count; i++) {                                                   \
            out[i] = entries[row[i]];                                                              \
        }                                                                                          \
    }

LOOK_UP(look_up_bytes, uint8_t)
LOOK_UP(look_up_words, uint16_t)

static void
by_table(Change *change, const char *samples, char *out, uint8_t *bits, Py_ssize_t first,
         Py_ssize_t count)
{
    (void)bits, (void)first;
    if (change->size == 1) {
        look_up_bytes(samples, change->table.buf, (uint32_t *)out, count);
    }
    else {
        look_up_words(samples, change->table.buf, (uint32_t *)out, count);
    }
}

/* The bytes of a sample for which a table has an entry per value; 0 where it is no such table. */
static Py_ssize_t
size_of_samples(const Py_buffer *table)
{
    if ((uintptr_t)table->buf % 4 != 0) {
        return 0;
    }
    return table->len == 256 * 4 ? 1 : table->len == 65536 * 4 ? 2 : 0;
}

static int
take_table(PyObject *given, Change *change)
{
    if (!PyArg_ParseTuple(given, "y*", &change->table)) {
        return 0;
    }
    change->apply = by_table;
    change->size = size_of_samples(&change->table), change->value_size = 4;
    if (change->size == 0) {
        PyErr_SetString(PyExc_ValueError, "the table does not fit samples of 1 or 2 bytes");
        drop_change(change);
        return 0;
    }
    return 1;
}

static int
take_pass(PyObject *given, int has_mask, Change *change)
{
    PyObject *padding;
    Pass *pass = &change->pass;
    int code, to;
    unsigned int bits, slope, intercept;
    long long low = 0, high = 0;
    if (!PyArg_ParseTuple(given, "(CpiiI)(CIIdd)O", &code, &pass->swaps, &pass->left,
                          &pass->right, &bits, &to, &slope, &intercept, &pass->slope_f,
                          &pass->intercept_f, &padding)) {
        return 0;
    }
    pass->has_padding = has_mask && padding != Py_None;
    if (padding != Py_None && !PyArg_ParseTuple(padding, "LL", &low, &high)) {
        return 0;
    }
    const Kind *kind = kind_of(code);
    /* Codes of signed samples are the small letters. */
    pass->mask = code >= 'a' ? UINT32_MAX : bits;
    pass->slope = slope, pass->intercept = intercept;
    pass->low = low, pass->high = high;
    if (kind == NULL || (to != 'h' && to != 'i' && to != 'f') || pass->left < 0 ||
        pass->left >= 8 * kind->size || pass->right < 0 || pass->right >= 8 * kind->size) {
        PyErr_SetString(PyExc_ValueError, "the steps do not fit the samples");
        return 0;
    }
    change->apply = kind->to[to == 'h' ? 0 : to == 'i' ? 1 : 2];
    change->size = kind->size, change->value_size = to == 'h' ? 2 : 4;
    return 1;
}

/* (table,), or the steps of a pass: ((code, swaps, left, right, bits), (to, slope, intercept,
 * slope, intercept), padding). The twins in `values` say what they mean. */
int
take_change(PyObject *given, int has_mask, Change *change)
{
    memset(change, 0, sizeof(*change));
    if (!PyTuple_Check(given)) {
        PyErr_SetString(PyExc_TypeError, "a change of samples is a tuple");
        return 0;
    }
    return PyTuple_Size(given) == 1 ? take_table(given, change)
                                    : take_pass(given, has_mask, change);
}

void
drop_change(Change *change)
{
    if (change->table.obj != NULL) {
        PyBuffer_Release(&change->table);
    }
}

static int
fits(const Change *change, const Py_buffer *source, const Py_buffer *out, const Py_buffer *mask)
{
    Py_ssize_t count = source->len / change->size;
    const char *first = source->buf, *second = out->buf;
    int is_apart = first + source->len <= second || second + out->len <= first;
    int is_same = first == second && change->size == change->value_size;
    return source->len % change->size == 0 && count <= PY_SSIZE_T_MAX / 4 &&
           (uintptr_t)second % (size_t)change->value_size == 0 &&
           out->len == count * change->value_size &&
           (mask->obj == NULL || mask->len == BYTES_OF_BITS(count)) &&
           (is_apart || is_same);
}

/* convert_samples(samples, out, mask, steps of a pass). */
static PyObject *
convert_samples(PyObject *module, PyObject *args)
{
    (void)module;
    Change change;
    Py_buffer source, out, mask;
    PyObject *given, *steps, *result = NULL;
    memset(&mask, 0, sizeof(mask));
    if (!PyArg_ParseTuple(args, "y*w*OO!:convert_samples", &source, &out, &given, &PyTuple_Type,
                          &steps)) {
        return NULL;
    }
    if (take_change(steps, given != Py_None, &change)) {
        if (given == Py_None || PyObject_GetBuffer(given, &mask, PyBUF_WRITABLE) == 0) {
            if (change.table.obj != NULL || !fits(&change, &source, &out, &mask)) {
                PyErr_SetString(PyExc_ValueError,
                                "the samples do not fit the memory that was given");
            }
            else {
                Py_BEGIN_ALLOW_THREADS
                if (mask.obj != NULL) {
                    memset(mask.buf, 0, (size_t)mask.len);
                }
                change.apply(&change, source.buf, out.buf, mask.buf, 0, source.len / change.size);
                Py_END_ALLOW_THREADS
                result = PyLong_FromLong(change.found);
            }
        }
        drop_change(&change);
    }
    if (mask.obj != NULL) {
        PyBuffer_Release(&mask);
    }
    PyBuffer_Release(&source);
    PyBuffer_Release(&out);
    return result;
}

#define MOST_AXES 4
/* Bytes of short rows that are copied together: looking up waits for memory, copying does not. */
#define BAND 8192

/* Rows of contiguous samples, and the distances between them in bytes. */
typedef struct {
    Py_ssize_t row, counts[MOST_AXES], steps[MOST_AXES];
} Rows;

/* The rows of a buffer; 0 where its samples do not lie in rows, have another size, or lie between
 * the places for it. */
static int
take_rows(const Py_buffer *source, Py_ssize_t size, Rows *rows)
{
    int outer = source->ndim - 1;
    if (outer < 0 || outer > MOST_AXES || source->itemsize != size ||
        (source->shape[outer] > 1 && source->strides[outer] != size) ||
        (uintptr_t)source->buf % (size_t)size != 0) {
        return 0;
    }
    if (PyBuffer_IsContiguous(source, 'C')) {
        *rows = (Rows){source->len / size, {1, 1, 1, 1}, {0, 0, 0, 0}};
        return 1;
    }
    rows->row = source->shape[outer];
    for (int axis = 0; axis < MOST_AXES; axis++) {
        int own = axis - (MOST_AXES - outer);
        rows->counts[axis] = own < 0 ? 1 : source->shape[own];
        rows->steps[axis] = own < 0 ? 0 : source->strides[own];
        if (rows->steps[axis] % size != 0) {
            return 0;
        }
    }
    return 1;
}

typedef void LookUp(const char *, const uint32_t *, uint32_t *, Py_ssize_t);

/* Rows along the last outer axis. */
static uint32_t *
map_plane(const Rows *rows, const char *plane, Py_ssize_t size, LookUp *look_up,
          const uint32_t *entries, uint32_t *out)
{
    _Alignas(8) char band[BAND];
    Py_ssize_t row_bytes = rows->row * size, together = BAND / row_bytes, held = 0;
    for (Py_ssize_t number = 0; number < rows->counts[3]; number++) {
        const char *row = plane + number * rows->steps[3];
        if (together < 2) {
            look_up(row, entries, out, rows->row);
            out += rows->row;
            continue;
        }
        memcpy(band + held * row_bytes, row, (size_t)row_bytes);
        if (++held == together || number + 1 == rows->counts[3]) {
            look_up(band, entries, out, held * rows->row);
            out += held * rows->row;
            held = 0;
        }
    }
    return out;
}

static void
map_rows(const Rows *rows, const Py_buffer *source, const uint32_t *entries, uint32_t *out)
{
    LookUp *look_up = source->itemsize == 1 ? look_up_bytes : look_up_words;
    const Py_ssize_t *counts = rows->counts, *steps = rows->steps;
    for (Py_ssize_t a = 0; a < counts[0]; a++) {
        for (Py_ssize_t b = 0; b < counts[1]; b++) {
            for (Py_ssize_t c = 0; c < counts[2]; c++) {
                const char *plane =
                    (const char *)source->buf + a * steps[0] + b * steps[1] + c * steps[2];
                out = map_plane(rows, plane, source->itemsize, look_up, entries, out);
            }
        }
    }
}

/* map_samples(samples, table, out): the float32 of the table for each sample, of 1 or 2 bytes as
 * the table has 256 or 65536 entries; samples lie in rows, such as those of a part of an array. */
static PyObject *
map_samples(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer source, table, out;
    PyObject *samples, *result = NULL;
    Rows rows;
    if (!PyArg_ParseTuple(args, "Oy*w*:map_samples", &samples, &table, &out)) {
        return NULL;
    }
    Py_ssize_t size = size_of_samples(&table);
    if (PyObject_GetBuffer(samples, &source, PyBUF_STRIDED_RO) == 0) {
        if (size == 0 || source.len / size > PY_SSIZE_T_MAX / 4 ||
            out.len != source.len / size * 4 || (uintptr_t)out.buf % 4 != 0 ||
            !take_rows(&source, size, &rows)) {
            PyErr_SetString(PyExc_ValueError,
                            "the samples do not fit the memory that was given");
        }
        else {
            Py_BEGIN_ALLOW_THREADS
            if (source.len > 0) {
                map_rows(&rows, &source, table.buf, out.buf);
            }
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_None);
        }
        PyBuffer_Release(&source);
    }
    PyBuffer_Release(&table);
    PyBuffer_Release(&out);
    return result;
}

PyMethodDef values_methods[] = {
    {"convert_samples", convert_samples, METH_VARARGS, NULL},
    {"map_samples", map_samples, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
