/* What the files of the compiled module share: the limited API of CPython 3.11, one table of
 * functions per file, and one rule: memory comes in as buffers, whose bounds are checked before the
 * interpreter lock is released. No function allocates by a number that it has not compared with the
 * size of what it was given.
 *
 * No format of PyArg_ParseTuple and Py_BuildValue has a '#': a module that is built with the headers
 * of 3.13 calls other functions for it than 3.11 and 3.12 expect. */
#ifndef DICOMDL_KERNELS_H
#define DICOMDL_KERNELS_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdint.h>
#ifndef _WIN32
#include <sys/stat.h>
#include <time.h>
#endif

/* How raw samples become modality values: steps of the pure twin. */
typedef struct {
    int swaps;         /* of the other byte order */
    int left, right;   /* shifts, the second with the sign of signed samples */
    uint32_t mask;     /* bits that stay after the shifts: all of signed samples */
    uint32_t slope, intercept; /* modulo 2^32, for integers */
    double slope_f, intercept_f;
    int has_padding;
    int64_t low, high; /* stored values that mean padding, inside the range of their type */
} Pass;

/* What becomes of contiguous samples: a pass over them, or a look at a table of float32.
 *
 * `apply` fills `out` with `count` values. `bits`, unless NULL, are zeros, one per value, the first
 * one as the lowest bit of its byte: from bit `first` on, those of padding become 1. */
typedef struct Change Change;
struct Change {
    void (*apply)(Change *change, const char *samples, char *out, uint8_t *bits, Py_ssize_t first,
                  Py_ssize_t count);
    Py_ssize_t size, value_size; /* bytes of a sample and of a value */
    Pass pass;
    Py_buffer table; /* obj is NULL for a pass */
    int found;       /* result: CHANGE_FOUND, CHANGE_BEYOND or their sum */
};

#define BYTES_OF_BITS(count) ((count) / 8 + ((count) % 8 != 0))

#define CHANGE_FOUND 1  /* some value is padding */
#define CHANGE_BEYOND 2 /* float32 does not hold some value */

/* Take a change out of a tuple of Python; 0 with an error set where it is none. A change that was
 * taken holds its table until it is dropped. */
int take_change(PyObject *given, int has_mask, Change *change);
void drop_change(Change *change);

#ifndef _WIN32
/* Read so many bytes at an offset of an open file; 0 where it has fewer, or the system fails. */
int read_fully(int descriptor, char *buffer, int64_t length, int64_t offset);

/* The folder of the last file, which is opened when a second file of it follows: the system then
 * looks up a name in it, and not the whole path. It borrows that path. */
typedef struct {
    const char *path;
    size_t length;
    int descriptor;
} Folder;

#define NO_FOLDER ((Folder){NULL, 0, -1})

/* Return the paths in a tuple of bytes, which keeps them: NULL for one with a NUL, which no file has.
 * The caller frees the list; NULL with an error set where there is no memory, or no tuple of bytes. */
const char **paths_in(PyObject *tuple);
/* Open a file by its path; -1 where the system does not. */
int open_file(Folder *folder, const char *path, int flags);
/* Look up a file, or a link, by its path; -1 where the system does not. */
int look_up_file(Folder *folder, const char *path, struct stat *status);
void leave_folder(Folder *folder);

/* Where the state of a file has its modification and change time. */
#ifdef __APPLE__
#define MODIFIED st_mtimespec
#define CHANGED st_ctimespec
#else
#define MODIFIED st_mtim
#define CHANGED st_ctim
#endif

/* Times after 2262 wrap around, as `stored_ns` of the package storage says. */
static inline int64_t
nanoseconds(struct timespec time)
{
    return (int64_t)((uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec);
}
#endif

/* Each ends with an entry of zeros. */
extern PyMethodDef bits_methods[];
extern PyMethodDef ranges_methods[];
extern PyMethodDef reading_methods[];
extern PyMethodDef states_methods[];
extern PyMethodDef values_methods[];
extern PyMethodDef walk_methods[];

#endif
