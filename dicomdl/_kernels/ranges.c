/* Ranges of one open file, read into one buffer without the interpreter lock.
 *
 * The rule: anything unusual ends the call before that range. The caller gets the number of ranges
 * that are complete and repeats the next one by itself, so that each error is worded in one place. */
#include "kernels.h"

#ifndef _WIN32
#include <stdint.h>
#include <string.h>

/* Per range: its offset in the file, its rows, their bytes, the first byte that is kept of each
 * row, how many are kept, and their place in the buffer. */
#define FIELDS 6

typedef struct {
    int64_t offset, rows, row_bytes, lead, width, place;
} Range;

static Range
range_at(const int64_t *fields, Py_ssize_t number)
{
    fields += FIELDS * number;
    return (Range){fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]};
}

/* Whether a range fits the memory that was given. */
static int
is_inside(const Range *range, Py_ssize_t out, Py_ssize_t band)
{
    if (range->rows < 1 || range->row_bytes < 1 || range->lead < 0 || range->width < 1 ||
        range->width > range->row_bytes ||
        range->lead > range->row_bytes - range->width) {
        return 0;
    }
    if (range->width < range->row_bytes && range->rows > band / range->row_bytes) {
        return 0;
    }
    return range->place >= 0 && range->place <= out &&
           range->rows <= (out - range->place) / range->width;
}

static int
read_range(int descriptor, const Range *range, char *out, char *band)
{
    out += range->place;
    if (range->width == range->row_bytes) {
        return read_fully(descriptor, out, range->rows * range->width, range->offset);
    }
    if (!read_fully(descriptor, band, range->rows * range->row_bytes, range->offset)) {
        return 0;
    }
    band += range->lead;
    for (int64_t row = 0; row < range->rows; row++) {
        memcpy(out + row * range->width, band + row * range->row_bytes, (size_t)range->width);
    }
    return 1;
}

static PyObject *
fill_checked(int descriptor, const Py_buffer *ranges, const Py_buffer *out, const Py_buffer *band)
{
    Py_ssize_t count = ranges->len / (Py_ssize_t)(FIELDS * sizeof(int64_t)), done = 0;
    for (Py_ssize_t number = 0; number < count; number++) {
        Range range = range_at(ranges->buf, number);
        if (!is_inside(&range, out->len, band->len)) {
            PyErr_SetString(PyExc_ValueError, "the ranges exceed the memory that was given");
            return NULL;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    for (; done < count; done++) {
        Range range = range_at(ranges->buf, done);
        if (!read_range(descriptor, &range, out->buf, band->buf)) {
            break;
        }
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromSsize_t(done);
}

static PyObject *
fill_ranges(PyObject *module, PyObject *args)
{
    (void)module;
    int descriptor;
    Py_buffer ranges, out, band;
    if (!PyArg_ParseTuple(args, "iy*w*w*:fill_ranges", &descriptor, &ranges, &out, &band)) {
        return NULL;
    }
    PyObject *result = fill_checked(descriptor, &ranges, &out, &band);
    PyBuffer_Release(&ranges);
    PyBuffer_Release(&out);
    PyBuffer_Release(&band);
    return result;
}
#endif

PyMethodDef ranges_methods[] = {
#ifndef _WIN32
    {"fill_ranges", fill_ranges, METH_VARARGS, NULL},
#endif
    {NULL, NULL, 0, NULL},
};
