/* The module dicomdl._kernels._compiled: the functions of all files. It has no state, so that each
 * interpreter of a process may load it. */
#include "kernels.h"

static int
add_functions(PyObject *module)
{
    PyMethodDef *tables[] = {bits_methods, ranges_methods, reading_methods, states_methods,
                             values_methods, walk_methods};
    for (size_t number = 0; number < sizeof(tables) / sizeof(tables[0]); number++) {
        if (PyModule_AddFunctions(module, tables[number]) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_functions},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dicomdl._kernels._compiled",
    .m_doc = "The hot loops of dicomdl.",
    .m_size = 0,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    return PyModuleDef_Init(&definition);
}
