/* Labels where the bits of frames are 1. Bits are in the order of PS3.5 8.1.1: the first pixel is
 * the lowest bit of its byte; a frame may begin within a byte. */
#include "kernels.h"

#include <stdint.h>
#include <string.h>

/* Per piece: its first bit, rows and columns, then plane, row and column of its first pixel. */
#define FIELDS 6

typedef struct {
    const uint8_t *data;
    Py_ssize_t length;     /* bytes */
    const int64_t *pieces; /* FIELDS each */
    Py_ssize_t count;
    const uint8_t *labels; /* one per piece, as wide as a value of `out` */
    int64_t columns;       /* bits from one row to the next */
    uint8_t *out;
    int64_t planes, out_rows, out_columns;
    Py_ssize_t width; /* bytes per value */
    uint8_t *twice;   /* a mark per value, or NULL */
    Py_ssize_t overlap;
} Job;

static int
is_little_endian(void)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first;
}

/* Return up to 64 bits from a position, the first one as the lowest bit. */
static uint64_t
bits_at(const Job *job, int64_t position, int64_t count)
{
    int64_t byte = position >> 3;
    unsigned shift = (unsigned)(position & 7);
    uint64_t bits = 0;
    if (byte + 8 <= job->length && is_little_endian()) {
        memcpy(&bits, job->data + byte, 8);
    }
    else {
        for (int64_t n = 0; n < 8 && byte + n < job->length; n++) {
            bits |= (uint64_t)job->data[byte + n] << (8 * n);
        }
    }
    bits >>= shift;
    if (shift && (int64_t)shift + count > 64) {
        bits |= (uint64_t)job->data[byte + 8] << (64 - shift);
    }
    return count < 64 ? bits & (((uint64_t)1 << count) - 1) : bits;
}

/* Draw up to 64 values one by one. */
#define DRAW_EACH(name, type)                                                                     \
    static void name(Job *job, uint64_t bits, int64_t at, const uint8_t *given)                   \
    {                                                                                             \
        type label, seen;                                                                         \
        memcpy(&label, given, sizeof(label));                                                     \
        for (; bits; bits >>= 1, at++) {                                                          \
            if (!(bits & 1)) {                                                                    \
                continue;                                                                         \
            }                                                                                     \
            uint8_t *out = job->out + at * (int64_t)sizeof(label);                                \
            memcpy(&seen, out, sizeof(seen));                                                     \
            if (job->twice != NULL && seen != 0 && seen != label && !job->twice[at]) {            \
                job->twice[at] = 1;                                                               \
                job->overlap++;                                                                   \
            }                                                                                     \
            memcpy(out, &label, sizeof(label));                                                   \
        }                                                                                         \
    }

DRAW_EACH(draw_1, uint8_t)
DRAW_EACH(draw_2, uint16_t)
DRAW_EACH(draw_4, uint32_t)
DRAW_EACH(draw_8, uint64_t)

/* Draw up to 64 values of one byte, eight at a time. */
static void
draw_bytes(Job *job, uint64_t bits, int64_t at, int64_t count, const uint8_t *label)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), labels = ones * *label;
    for (; bits && count >= 8 && is_little_endian(); bits >>= 8, at += 8, count -= 8) {
        uint64_t eight = bits & 0xFF, seen;
        if (!eight) {
            continue;
        }
        /* Bit n becomes byte n: 0 or 255. */
        uint64_t mask = eight * ones & UINT64_C(0x8040201008040201);
        mask = ((mask + UINT64_C(0x7F7F7F7F7F7F7F7F)) >> 7 & ones) * 0xFF;
        memcpy(&seen, job->out + at, 8);
        /* Labels that are there already, and are others: one by one. */
        if (job->twice != NULL && (seen & mask) != 0 && (seen & mask) != (labels & mask)) {
            draw_1(job, eight, at, label);
            continue;
        }
        seen = (seen & ~mask) | (labels & mask);
        memcpy(job->out + at, &seen, 8);
    }
    draw_1(job, bits, at, label);
}

static void
draw_piece(Job *job, const int64_t *piece, const uint8_t *label)
{
    for (int64_t row = 0; row < piece[1]; row++) {
        int64_t bit = piece[0] + row * job->columns;
        int64_t at = (piece[3] * job->out_rows + piece[4] + row) * job->out_columns + piece[5];
        for (int64_t left = piece[2]; left > 0; left -= 64, bit += 64, at += 64) {
            int64_t count = left < 64 ? left : 64;
            uint64_t bits = bits_at(job, bit, count);
            if (!bits) {
                continue;
            }
            switch (job->width) {
            case 1:
                draw_bytes(job, bits, at, count, label);
                break;
            case 2:
                draw_2(job, bits, at, label);
                break;
            case 4:
                draw_4(job, bits, at, label);
                break;
            default:
                draw_8(job, bits, at, label);
            }
        }
    }
}

/* Whether a piece lies in the bits and in the block. */
static int
is_inside(const Job *job, const int64_t *piece)
{
    int64_t bits = (int64_t)job->length * 8;
    int64_t bit = piece[0], rows = piece[1], columns = piece[2];
    if (bit < 0 || rows < 1 || columns < 1 || columns > job->columns || columns > bits ||
        bit > bits - columns || (rows - 1) > (bits - columns - bit) / job->columns) {
        return 0;
    }
    return piece[3] >= 0 && piece[3] < job->planes && piece[4] >= 0 && piece[4] < job->out_rows &&
           rows <= job->out_rows - piece[4] && piece[5] >= 0 && piece[5] < job->out_columns &&
           columns <= job->out_columns - piece[5];
}

typedef struct {
    Py_buffer data, pieces, labels, out, twice;
} Buffers;

/* Take the numbers of a call, checked against the memory that it was given. */
static int
take(Job *job, const Buffers *held)
{
    if (held->out.ndim != 3 || held->out.shape == NULL || job->columns < 1) {
        return 0;
    }
    job->data = held->data.buf;
    job->length = held->data.len;
    job->pieces = held->pieces.buf;
    job->count = held->pieces.len / (Py_ssize_t)(FIELDS * sizeof(int64_t));
    job->labels = held->labels.buf;
    job->out = held->out.buf;
    job->planes = held->out.shape[0];
    job->out_rows = held->out.shape[1];
    job->out_columns = held->out.shape[2];
    job->width = held->out.itemsize;
    job->twice = held->twice.obj == NULL ? NULL : held->twice.buf;
    if ((job->width != 1 && job->width != 2 && job->width != 4 && job->width != 8) ||
        job->length > PY_SSIZE_T_MAX / 8 || held->labels.len / job->width < job->count ||
        (job->twice != NULL && held->twice.len < held->out.len / job->width)) {
        return 0;
    }
    for (Py_ssize_t number = 0; number < job->count; number++) {
        if (!is_inside(job, job->pieces + FIELDS * number)) {
            return 0;
        }
    }
    return 1;
}

static PyObject *
draw_checked(Job *job, const Buffers *held)
{
    if (!take(job, held)) {
        PyErr_SetString(PyExc_ValueError, "the pieces exceed the memory that was given");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t number = 0; number < job->count; number++) {
        draw_piece(job, job->pieces + FIELDS * number, job->labels + job->width * number);
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromSsize_t(job->overlap);
}

static PyObject *
draw_bits(PyObject *module, PyObject *args)
{
    (void)module;
    Job job;
    Buffers held;
    PyObject *out, *twice, *result = NULL;
    Py_ssize_t columns;
    memset(&job, 0, sizeof(job));
    memset(&held, 0, sizeof(held));
    if (!PyArg_ParseTuple(args, "y*y*y*nOO:draw_bits", &held.data, &held.pieces, &held.labels,
                          &columns, &out, &twice)) {
        return NULL;
    }
    job.columns = columns;
    if (PyObject_GetBuffer(out, &held.out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0 &&
        (twice == Py_None || PyObject_GetBuffer(twice, &held.twice, PyBUF_WRITABLE) == 0)) {
        result = draw_checked(&job, &held);
    }
    Py_buffer *all[] = {&held.data, &held.pieces, &held.labels, &held.out, &held.twice};
    for (size_t number = 0; number < sizeof(all) / sizeof(all[0]); number++) {
        if (all[number]->obj != NULL) {
            PyBuffer_Release(all[number]);
        }
    }
    return result;
}

PyMethodDef bits_methods[] = {
    {"draw_bits", draw_bits, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
