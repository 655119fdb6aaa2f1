/* The states of many files, looked up without the interpreter lock.
 *
 * The rule: what is no regular file, or cannot be looked up, is left to the caller. */
#include "kernels.h"

#ifndef _WIN32
#include <stdlib.h>

/* Numbers per file: size, modification and change time in ns, inode, device, and 1 for a file that
 * was looked up; six zeros for others. */
#define NUMBERS 6

static void
look_up_each(const char *const *paths, size_t count, uint64_t *numbers)
{
    Folder folder = NO_FOLDER;
    struct stat status;
    for (size_t place = 0; place < count; place++, numbers += NUMBERS) {
        if (paths[place] && look_up_file(&folder, paths[place], &status) == 0
            && S_ISREG(status.st_mode)) {
            numbers[0] = (uint64_t)status.st_size;
            numbers[1] = (uint64_t)nanoseconds(status.MODIFIED);
            numbers[2] = (uint64_t)nanoseconds(status.CHANGED);
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
    const char **names = paths_in(paths);
    if (!names) {
        return NULL;
    }
    size_t count = (size_t)PyTuple_Size(paths);
    uint64_t *numbers = calloc(count + 1, NUMBERS * sizeof *numbers);
    PyObject *result = NULL;
    if (!numbers) {
        PyErr_NoMemory();
        goto end;
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
