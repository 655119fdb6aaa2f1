/* The states of many files, looked up without the interpreter lock.
 *
 * The rule: what is no regular file, or cannot be looked up, is left to the caller. */
#include "kernels.h"

#ifndef _WIN32
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifdef __APPLE__
#define MODIFIED st_mtimespec
#define CHANGED st_ctimespec
#else
#define MODIFIED st_mtim
#define CHANGED st_ctim
#endif

/* Numbers per file: size, modification and change time in ns, inode, device, and 1 for a file that
 * was looked up; six zeros for others. */
#define NUMBERS 6

/* Times after 2262 wrap around. */
static uint64_t
nanoseconds(struct timespec time)
{
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static void
look_up_each(const char *const *paths, size_t count, uint64_t *numbers)
{
    Folder folder = NO_FOLDER;
    struct stat status;
    for (size_t place = 0; place < count; place++, numbers += NUMBERS) {
        if (paths[place] && look_up_file(&folder, paths[place], &status) == 0
            && S_ISREG(status.st_mode)) {
            numbers[0] = (uint64_t)status.st_size;
            numbers[1] = nanoseconds(status.MODIFIED);
            numbers[2] = nanoseconds(status.CHANGED);
            numbers[3] = (uint64_t)status.st_ino;
            numbers[4] = (uint64_t)status.st_dev;
            numbers[5] = 1;
        }
    }
    leave_folder(&folder);
}

/* look_up_files(paths): `paths` is a tuple of bytes. */
static PyObject *
look_up_files(PyObject *Py_UNUSED(module), PyObject *paths)
{
    if (!PyTuple_Check(paths)) {
        PyErr_SetString(PyExc_TypeError, "expected a tuple of paths");
        return NULL;
    }
    size_t count = (size_t)PyTuple_Size(paths);
    const char **names = calloc(count + 1, sizeof *names);
    uint64_t *numbers = calloc(count + 1, NUMBERS * sizeof *numbers);
    PyObject *result = NULL;
    if (!names || !numbers) {
        PyErr_NoMemory();
        goto end;
    }
    for (size_t place = 0; place < count; place++) {
        char *name;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(paths, (Py_ssize_t)place), &name, &length)
            < 0) {
            goto end;
        }
        names[place] = memchr(name, 0, (size_t)length) ? NULL : name;
    }
    Py_BEGIN_ALLOW_THREADS
    look_up_each(names, count, numbers);
    Py_END_ALLOW_THREADS
    result = PyBytes_FromStringAndSize((const char *)numbers,
                                       (Py_ssize_t)(count * NUMBERS * sizeof *numbers));
end:
    free(names);
    free(numbers);
    return result;
}
#endif

PyMethodDef states_methods[] = {
#ifndef _WIN32
    {"look_up_files", look_up_files, METH_O, "Look up files: six numbers each."},
#endif
    {NULL, NULL, 0, NULL},
};
