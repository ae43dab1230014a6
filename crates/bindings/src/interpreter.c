/* What differs between interpreters, or needs their headers: who holds the GIL, and a call that a
 * thread does not unwind through when the interpreter ends. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <unistd.h>

/* Whether a thread holds the GIL. Any thread may ask, without the GIL; `tstate` must be alive. */
int threadlets_holds_gil(PyThreadState *tstate)
{
#if PY_VERSION_HEX >= 0x030D0000
    return __atomic_load_n(&tstate->state, __ATOMIC_ACQUIRE) == 1; /* _Py_THREAD_ATTACHED */
#elif PY_VERSION_HEX >= 0x030C0000
    return ((volatile PyThreadState *)tstate)->_status.active;
#else
    return _PyThreadState_UncheckedGet() == tstate;
#endif
}

/* The present context, borrowed; null where no variable was ever set. */
PyObject *threadlets_context(void)
{
    return PyThreadState_Get()->context;
}

/* A thread that wants the GIL while the interpreter ends is made to exit, by unwinding its stack
 * (before CPython 3.14, which lets it hang). Rust frames must not be unwound like that, so it hangs
 * here too; the process ends soon. */
static void hang_if_unwound(int *is_inside)
{
    while (*is_inside)
        pause();
}

PyObject *threadlets_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names)
{
    __attribute__((cleanup(hang_if_unwound))) int is_inside = 1;
    PyObject *result = PyObject_Vectorcall(callable, args, nargsf, names);
    is_inside = 0;
    return result;
}

PyObject *threadlets_call_with_dict(PyObject *callable, PyObject *args, PyObject *kwargs)
{
    __attribute__((cleanup(hang_if_unwound))) int is_inside = 1;
    PyObject *result = PyObject_Call(callable, args, kwargs);
    is_inside = 0;
    return result;
}

/* Free a call. Calls can be arguments of calls, to any depth: the interpreter's trash can keeps the
 * stack short. */
extern void threadlets_free_call(PyObject *call);

void threadlets_dealloc_call(PyObject *call)
{
    PyObject_GC_UnTrack(call);
    Py_TRASHCAN_BEGIN(call, threadlets_dealloc_call)
    threadlets_free_call(call);
    Py_TRASHCAN_END
}
