/* Pieces of many files, read into one block, each after a look at the state of its file. Samples are
 * changed to values on the way, while they are in the processor's cache. Threads share the pieces.
 *
 * The rule: anything unusual ends the call before that piece - a file in another state, a short
 * read, an error of the system. The caller gets the number of pieces that are complete and repeats
 * the next one by itself, so that each error is found and worded in one place. */
#include "kernels.h"

PyObject *fill_block(PyObject *module, PyObject *args);

#ifndef _WIN32
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define UNKNOWN (-1)
/* Size, modification time and change time per file. */
#define FACTS 3
/* Pieces that are asked for ahead of a read that waits. */
#define AHEAD 32
/* Bytes between the rows of a piece from which it is read row by row. */
#define WIDE_GAP 8192
/* Bytes that are read at once before they are changed: they stay in the second cache. */
#define HOT 122880
#define MOST_THREADS 64
/* A read that takes longer than this, and more than 2 ns per byte, did not come from memory. */
#define PROMPT_NS 30000

typedef struct {
    const char **paths;
    const int64_t *facts;
    const int64_t *offsets;
    int flags;
    int *open;     /* descriptors of the pieces, -1 where none */
    int was_given; /* descriptors outlive the call */
    Folder folder;
    Py_ssize_t pieces, begin, rows, row_bytes, lead, width;
    Change *changes;   /* of each piece, or one of all of them */
    Py_ssize_t changed; /* how many there are; 0 for bytes as they are */
    Py_ssize_t values, value_size; /* per piece, and bytes of each */
    char *out, *hot;
    uint8_t *mask;
    Py_ssize_t advised; /* pieces before this one are asked for */
} Block;

static int
is_as_scanned(const Block *block, Py_ssize_t piece, int descriptor, int was_kept)
{
    const int64_t *facts = block->facts + FACTS * piece;
    struct stat status;
    if (fstat(descriptor, &status) < 0 || !S_ISREG(status.st_mode)) {
        return 0;
    }
    /* Another file may stand in the place of one that has no name left. */
    if (was_kept && status.st_nlink == 0) {
        return 0;
    }
    int64_t end = block->begin + block->rows * block->row_bytes;
    if (block->offsets[piece] < 0 || block->offsets[piece] > status.st_size - end) {
        return 0;
    }
    return facts[1] == UNKNOWN ||
           (status.st_size == facts[0] && nanoseconds(status.MODIFIED) == facts[1] &&
            (facts[2] == UNKNOWN || nanoseconds(status.CHANGED) == facts[2]));
}

/* Open the file of a piece, or look again at the open one; 0 where it is not as it was scanned. */
static int
open_piece(Block *block, Py_ssize_t piece)
{
    int descriptor = block->open[piece];
    if (descriptor >= 0) {
        if (is_as_scanned(block, piece, descriptor, 1)) {
            return 1;
        }
        close(descriptor);
        block->open[piece] = -1;
    }
    descriptor = open_file(&block->folder, block->paths[piece], block->flags);
    if (descriptor < 0) {
        return 0;
    }
    if (!is_as_scanned(block, piece, descriptor, 0)) {
        close(descriptor);
        return 0;
    }
    block->open[piece] = descriptor;
    return 1;
}

int
read_fully(int descriptor, char *buffer, int64_t length, int64_t offset)
{
    while (length > 0) {
        ssize_t found = pread(descriptor, buffer, (size_t)length, (off_t)offset);
        if (found <= 0) {
            return 0;
        }
        buffer += found;
        length -= found;
        offset += found;
    }
    return 1;
}

/* Where the values of a piece go. */
typedef struct {
    Change *change; /* NULL for bytes as they are */
    char *out;
    uint8_t *mask;   /* of the piece, a bit per value */
    Py_ssize_t done; /* values */
} Target;

/* Put samples in their place. */
static void
deliver(Target *target, const char *samples, Py_ssize_t length)
{
    Change *change = target->change;
    if (change == NULL) {
        memcpy(target->out, samples, (size_t)length);
        target->out += length;
        return;
    }
    Py_ssize_t count = length / change->size;
    change->apply(change, samples, target->out, target->mask, target->done, count);
    target->out += count * change->value_size;
    target->done += count;
}

/* Read contiguous samples. */
static int
read_run(const Block *block, int descriptor, Target *target, Py_ssize_t length, int64_t offset)
{
    if (target->change == NULL) {
        int is_read = read_fully(descriptor, target->out, length, offset);
        target->out += length;
        return is_read;
    }
    int is_in_place = target->change->size == target->change->value_size;
    while (length > 0) {
        Py_ssize_t part = length < HOT ? length : HOT;
        char *room = is_in_place ? target->out : block->hot;
        if (!read_fully(descriptor, room, part, offset)) {
            return 0;
        }
        deliver(target, room, part);
        length -= part, offset += part;
    }
    return 1;
}

/* Read rows from the first byte that is wanted to the last one, as many at once as are hot. */
static int
read_rows(const Block *block, int descriptor, Target *target, int64_t offset)
{
    Py_ssize_t together = HOT / block->row_bytes;
    for (Py_ssize_t row = 0; row < block->rows; row += together) {
        Py_ssize_t rows = block->rows - row < together ? block->rows - row : together;
        Py_ssize_t length = (rows - 1) * block->row_bytes + block->width;
        if (!read_fully(descriptor, block->hot, length, offset + row * block->row_bytes)) {
            return 0;
        }
        for (Py_ssize_t next = 1; next < rows; next++) {
            memmove(block->hot + next * block->width, block->hot + next * block->row_bytes,
                    (size_t)block->width);
        }
        deliver(target, block->hot, rows * block->width);
    }
    return 1;
}

static int
read_window(const Block *block, int descriptor, Target *target, int64_t offset)
{
    if (block->width == block->row_bytes) {
        return read_run(block, descriptor, target, block->rows * block->width, offset);
    }
    if (block->row_bytes - block->width < WIDE_GAP && block->row_bytes <= HOT) {
        return read_rows(block, descriptor, target, offset + block->lead);
    }
    for (Py_ssize_t row = 0; row < block->rows; row++) {
        int64_t start = offset + row * block->row_bytes + block->lead;
        if (!read_run(block, descriptor, target, block->width, start)) {
            return 0;
        }
    }
    return 1;
}

/* Read one piece out of its open file into its place in the block. */
static int
read_piece(const Block *block, Py_ssize_t piece, int64_t offset)
{
    Py_ssize_t before = piece * block->values;
    Py_ssize_t mask_bytes = BYTES_OF_BITS(block->values);
    uint8_t *mask = block->mask == NULL ? NULL : block->mask + piece * mask_bytes;
    Target target = {
        block->changed == 0 ? NULL : block->changes + (block->changed == 1 ? 0 : piece),
        block->out + before * block->value_size,
        mask,
        0,
    };
    if (mask != NULL && target.change != NULL) {
        memset(mask, 0, (size_t)mask_bytes);
    }
    return read_window(block, block->open[piece], &target, offset);
}

/* Ask the system for the pieces behind one that had to be waited for. */
static void
advise(Block *block, Py_ssize_t piece)
{
    Py_ssize_t stop = piece + 1 + AHEAD;
    Py_ssize_t next = block->advised > piece + 1 ? block->advised : piece + 1;
    for (; next < block->pieces && next < stop; next++) {
        if (block->open[next] < 0 && !open_piece(block, next)) {
            break;
        }
#ifdef POSIX_FADV_WILLNEED
        posix_fadvise(block->open[next], (off_t)(block->offsets[next] + block->begin),
                      (off_t)(block->rows * block->row_bytes), POSIX_FADV_WILLNEED);
#endif
    }
    block->advised = next;
}

static Py_ssize_t
read_block(Block *block)
{
    Py_ssize_t piece = 0;
    int64_t patience = PROMPT_NS + 2 * (int64_t)(block->rows * block->row_bytes);
    for (; piece < block->pieces; piece++) {
        struct timespec before, after;
        /* Pieces that were asked for have been looked at in this call. */
        if ((piece >= block->advised || block->open[piece] < 0) && !open_piece(block, piece)) {
            break;
        }
        clock_gettime(CLOCK_MONOTONIC, &before);
        if (!read_piece(block, piece, block->offsets[piece] + block->begin)) {
            break;
        }
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (piece < block->advised || nanoseconds(after) - nanoseconds(before) > patience) {
            advise(block, piece);
        }
        if (!block->was_given) {
            close(block->open[piece]);
            block->open[piece] = -1;
        }
    }
    leave_folder(&block->folder);
    for (Py_ssize_t left = piece; !block->was_given && left < block->pieces; left++) {
        if (block->open[left] >= 0) {
            close(block->open[left]);
        }
    }
    return piece;
}

/* The pieces that one thread reads. */
typedef struct {
    Block block;
    Change change; /* where all pieces have one: the thread's own copy, for what it finds */
    Py_ssize_t first, done;
    pthread_t thread;
    int is_started;
} Share;

static void
take_share(const Block *block, Share *share, Py_ssize_t number, Py_ssize_t threads)
{
    Py_ssize_t begin = block->pieces * number / threads;
    Block *own = &share->block;
    *own = *block;
    own->pieces = block->pieces * (number + 1) / threads - begin;
    own->paths += begin;
    own->facts += FACTS * begin;
    own->offsets += begin;
    own->open += begin;
    own->out += begin * block->values * block->value_size;
    own->mask = own->mask == NULL ? NULL : own->mask + begin * BYTES_OF_BITS(block->values);
    own->hot += number * HOT;
    if (block->changed == 1) {
        share->change = block->changes[0];
        own->changes = &share->change;
    }
    else {
        own->changes += block->changed == 0 ? 0 : begin;
    }
    share->first = begin;
}

static void *
read_share(void *given)
{
    Share *share = given;
    share->done = read_block(&share->block);
    return NULL;
}

/* Read the pieces in so many threads, of which this is one; return how many are complete from the
 * first one. Where the system lacks a thread, this one reads its share. */
static Py_ssize_t
read_shares(Block *block, Share *shares, Py_ssize_t threads)
{
    Py_ssize_t done = 0;
    for (Py_ssize_t number = threads - 1; number >= 0; number--) {
        Share *share = shares + number;
        take_share(block, share, number, threads);
        share->is_started =
            number > 0 && pthread_create(&share->thread, NULL, read_share, share) == 0;
        if (!share->is_started) {
            read_share(share);
        }
    }
    for (Py_ssize_t number = 0; number < threads; number++) {
        Share *share = shares + number;
        if (share->is_started) {
            pthread_join(share->thread, NULL);
        }
        done += done == share->first ? share->done : 0;
        if (block->changed == 1) {
            block->changes[0].found |= share->change.found;
        }
    }
    return done;
}

/* Fill the list of paths; without the interpreter lock the tuple keeps them alive. */
static int
take_paths(PyObject *paths, Py_ssize_t first, Block *block)
{
    for (Py_ssize_t piece = 0; piece < block->pieces; piece++) {
        char *path;
        PyObject *item = PyTuple_GetItem(paths, first + piece);
        if (item == NULL || PyBytes_AsStringAndSize(item, &path, NULL) < 0) {
            return -1;
        }
        block->paths[piece] = path;
    }
    return 0;
}

typedef struct {
    Py_buffer facts, offsets, out, mask, open;
} Buffers;

/* Check all numbers of a call against the memory that it was given. */
static int
is_inside(Block *block, const Buffers *held, Py_ssize_t files, Py_ssize_t first)
{
    if (block->begin < 0 || block->rows < 1 || block->lead < 0 || block->width < 1 ||
        block->row_bytes < block->width || block->lead > block->row_bytes - block->width ||
        block->rows > PY_SSIZE_T_MAX / 8 / block->row_bytes || block->begin > PY_SSIZE_T_MAX / 8) {
        return 0;
    }
    Py_ssize_t sample = block->changed == 0 ? 1 : block->changes[0].size;
    block->value_size = block->changed == 0 ? 1 : block->changes[0].value_size;
    block->values = block->rows * block->width / sample;
    Py_ssize_t size = block->values * block->value_size;
    if (block->width % sample != 0 || held->out.len % size != 0 ||
        (uintptr_t)held->out.buf % (size_t)block->value_size != 0) {
        return 0;
    }
    block->pieces = held->out.len / size;
    if (first < 0 || block->pieces > files - first ||
        (block->changed > 1 && block->changed != block->pieces) ||
        (held->mask.obj != NULL &&
         held->mask.len != block->pieces * BYTES_OF_BITS(block->values))) {
        return 0;
    }
    for (Py_ssize_t number = 1; number < block->changed; number++) {
        const Change *change = block->changes + number;
        if (change->size != sample || change->value_size != block->value_size) {
            return 0;
        }
    }
    return held->facts.len / (Py_ssize_t)(FACTS * sizeof(int64_t)) >= files &&
           held->offsets.len / (Py_ssize_t)sizeof(int64_t) >= files &&
           (held->open.obj == NULL || held->open.len / (Py_ssize_t)sizeof(int) >= files);
}

static PyObject *
read_checked(PyObject *paths, Py_ssize_t first, Py_ssize_t threads, Block *block, Buffers *held)
{
    PyObject *result = NULL;
    if (!is_inside(block, held, PyTuple_Size(paths), first)) {
        PyErr_SetString(PyExc_ValueError, "the pieces exceed the memory that was given");
        return NULL;
    }
    int *own = NULL;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    threads = threads < block->pieces ? threads : block->pieces;
    threads = threads < 1 ? 1 : threads;
    Share *shares = PyMem_Calloc((size_t)threads, sizeof(Share));
    block->facts = (const int64_t *)held->facts.buf + FACTS * first;
    block->offsets = (const int64_t *)held->offsets.buf + first;
    block->out = held->out.buf;
    block->mask = held->mask.buf;
    block->folder = NO_FOLDER;
    block->was_given = held->open.obj != NULL;
    block->paths = PyMem_Calloc((size_t)block->pieces + 1, sizeof(char *));
    block->hot = PyMem_Malloc((size_t)threads * HOT);
    own = block->was_given ? NULL : PyMem_Malloc(((size_t)block->pieces + 1) * sizeof(int));
    if (shares == NULL || block->paths == NULL || block->hot == NULL ||
        (own == NULL && !block->was_given)) {
        PyErr_NoMemory();
    }
    else if (take_paths(paths, first, block) == 0) {
        Py_ssize_t done;
        block->open = block->was_given ? (int *)held->open.buf + first : own;
        for (Py_ssize_t piece = 0; own != NULL && piece < block->pieces; piece++) {
            own[piece] = -1;
        }
        Py_BEGIN_ALLOW_THREADS
        done = read_shares(block, shares, threads);
        Py_END_ALLOW_THREADS
        int found = 0;
        for (Py_ssize_t number = 0; number < block->changed; number++) {
            found |= block->changes[number].found;
        }
        result = Py_BuildValue("(ni)", done, found);
    }
    PyMem_Free((void *)block->paths);
    PyMem_Free(block->hot);
    PyMem_Free(own);
    PyMem_Free(shares);
    return result;
}

static void
release(Block *block, Buffers *held)
{
    Py_buffer *all[] = {&held->facts, &held->offsets, &held->out, &held->mask, &held->open};
    for (size_t number = 0; number < sizeof(all) / sizeof(all[0]); number++) {
        if (all[number]->obj != NULL) {
            PyBuffer_Release(all[number]);
        }
    }
    for (Py_ssize_t number = 0; number < block->changed; number++) {
        drop_change(block->changes + number);
    }
    PyMem_Free(block->changes);
}

/* Take the changes of the pieces; 0 with an error set where one is none. */
static int
take_changes(PyObject *given, int has_mask, Block *block)
{
    Py_ssize_t count = PyTuple_Size(given);
    block->changes = PyMem_Calloc((size_t)count + 1, sizeof(Change));
    if (block->changes == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    for (; block->changed < count; block->changed++) {
        PyObject *item = PyTuple_GetItem(given, block->changed);
        if (item == NULL || !take_change(item, has_mask, block->changes + block->changed)) {
            return 0;
        }
    }
    return 1;
}

/* fill_block((paths, facts, offsets, flags), first, (begin, rows, row_bytes, lead, width), out,
 * mask, open, changes, threads): the twin in `storage.pieces` says what they mean. */
PyObject *
fill_block(PyObject *module, PyObject *args)
{
    (void)module;
    Block block;
    Buffers held;
    PyObject *paths, *facts, *offsets, *mask, *open, *changes, *result = NULL;
    Py_ssize_t first, threads = 1;
    memset(&block, 0, sizeof(block));
    memset(&held, 0, sizeof(held));
    if (PyArg_ParseTuple(args, "(O!OOi)n(nnnnn)w*OOO!|n:fill_block", &PyTuple_Type, &paths, &facts,
                         &offsets, &block.flags, &first, &block.begin, &block.rows,
                         &block.row_bytes, &block.lead, &block.width, &held.out, &mask, &open,
                         &PyTuple_Type, &changes, &threads) &&
        PyObject_GetBuffer(facts, &held.facts, PyBUF_SIMPLE) == 0 &&
        PyObject_GetBuffer(offsets, &held.offsets, PyBUF_SIMPLE) == 0 &&
        (mask == Py_None || PyObject_GetBuffer(mask, &held.mask, PyBUF_WRITABLE) == 0) &&
        (open == Py_None || PyObject_GetBuffer(open, &held.open, PyBUF_WRITABLE) == 0) &&
        take_changes(changes, mask != Py_None, &block)) {
        result = read_checked(paths, first, threads, &block, &held);
    }
    release(&block, &held);
    return result;
}
#endif

PyMethodDef reading_methods[] = {
#ifndef _WIN32
    {"fill_block", fill_block, METH_VARARGS, NULL},
#endif
    {NULL, NULL, 0, NULL},
};
