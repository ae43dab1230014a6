/* What differs between interpreters, or needs their headers: who holds the GIL, and calls that a
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

/* Whether the interpreter ends, so that no other thread gets the GIL any more. */
int threadlets_is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* Whether it ends or has ended. */
int threadlets_has_ended(void)
{
    return threadlets_is_finalizing() || !Py_IsInitialized();
}

/* The present context, borrowed; null where no variable was ever set. */
PyObject *threadlets_context(void)
{
    return PyThreadState_Get()->context;
}

#if PY_VERSION_HEX >= 0x030E0000
/* A thread's state holds the loop that runs in the thread, and in the next word the task whose step that takes.
 * Which words those are is no part of an interface, so it is found out: counted from the end of the public part. */
static size_t running_loop_at;

/* Find them, on a thread in which both are set. Zero: they are not where they are looked for. */
int threadlets_find_running(PyObject *loop, PyObject *task)
{
    PyObject **words = (PyObject **)(PyThreadState_Get() + 1);
    for (running_loop_at = 0; running_loop_at < 32; running_loop_at++)
        if (words[running_loop_at] == loop && words[running_loop_at + 1] == task)
            return 1;
    return 0;
}

/* The list of the tasks that were made in a thread, further on in its state. */
static size_t tasks_at;

/* Find it, when asyncio has entered this task in it last, and others before: how far into the task its link is, or -1. */
Py_ssize_t threadlets_find_tasks(PyObject *task)
{
    uintptr_t *words = (uintptr_t *)(PyThreadState_Get() + 1);
    for (tasks_at = running_loop_at + 2; tasks_at < 40; tasks_at++) {
        /* The list is a circle: its second word leads to the last task, whose first word leads back. */
        uintptr_t into = words[tasks_at + 1] - (uintptr_t)task;
        if (into < 1024 && *(uintptr_t *)words[tasks_at + 1] == (uintptr_t)&words[tasks_at])
            return into;
    }
    return -1;
}

void *threadlets_tasks(void)
{
    return (void **)(PyThreadState_GetUnchecked() + 1) + tasks_at;
}

/* Where a thread, or this one, has the task whose step `loop` takes; null: another loop runs there, or none. */
PyObject **threadlets_running_task(PyThreadState *tstate, PyObject *loop)
{
    PyObject **words = (PyObject **)((tstate ? tstate : PyThreadState_GetUnchecked()) + 1);
    return words[running_loop_at] == loop ? words + running_loop_at + 1 : NULL;
}
#endif

/* A thread that wants the GIL while the interpreter ends is made to exit, by unwinding its stack
 * (before CPython 3.14, which lets it hang). Rust frames must not be unwound like that, so it hangs
 * in the first frame of ours that is reached, without the GIL; the process ends soon.
 *
 * That frame is one of the functions below: the linker puts them in the place of the interpreter's
 * (`--wrap`, see build.rs), for all code of this library, PyO3's included. A call that returns costs
 * a frame and no more: the guard is in the unwinder's tables. */
static void hang_if_unwound(int *is_inside)
{
    while (*is_inside)
        pause();
}

#define GUARD __attribute__((cleanup(hang_if_unwound))) int is_inside = 1
#define HIDDEN __attribute__((visibility("hidden")))

#define CALL(result, name, parameters, arguments)                                                   \
    extern result(name) parameters; /* has the header's word, where there is one */                 \
    extern result __real_##name parameters;                                                         \
    HIDDEN result __wrap_##name parameters                                                          \
    {                                                                                               \
        GUARD;                                                                                      \
        result value = __real_##name arguments;                                                     \
        is_inside = 0;                                                                              \
        return value;                                                                               \
    }
#define DO(name, parameters, arguments)                                                             \
    extern void(name) parameters;                                                                   \
    extern void __real_##name parameters;                                                           \
    HIDDEN void __wrap_##name parameters                                                            \
    {                                                                                               \
        GUARD;                                                                                      \
        __real_##name arguments;                                                                    \
        is_inside = 0;                                                                              \
    }
#define CALL0(result, name) CALL(result, name, (void), ())
#define CALL1(result, name, A) CALL(result, name, (A a), (a))
#define CALL2(result, name, A, B) CALL(result, name, (A a, B b), (a, b))
#define CALL3(result, name, A, B, C) CALL(result, name, (A a, B b, C c), (a, b, c))
#define CALL4(result, name, A, B, C, D) CALL(result, name, (A a, B b, C c, D d), (a, b, c, d))
#define CALL5(result, name, A, B, C, D, E) CALL(result, name, (A a, B b, C c, D d, E e), (a, b, c, d, e))
#define DO0(name) DO(name, (void), ())
#define DO1(name, A) DO(name, (A a), (a))
#define DO2(name, A, B) DO(name, (A a, B b), (a, b))
#define DO3(name, A, B, C) DO(name, (A a, B b, C c), (a, b, c))
#include "python_calls.h"

/* What is called through a pointer that the interpreter gave is guarded where it comes from, or below. */

#if PY_VERSION_HEX < 0x030C0000
/* PyO3 asks for a callable's function, and calls that. */
HIDDEN vectorcallfunc __wrap_PyVectorcall_Function(PyObject *callable)
{
    (void)callable;
    return __wrap_PyObject_Vectorcall;
}

/* PyO3 makes an object by its type's `tp_alloc`, of which every class gets the interpreter's: allocating may
 * collect garbage, before CPython 3.12. A class that is made in Python gets it when it is first used. */
static struct {
    PyTypeObject *type;
    newfunc make;
} bases[8];

static PyObject *make_guarded(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (type->tp_alloc == __real_PyType_GenericAlloc)
        type->tp_alloc = __wrap_PyType_GenericAlloc;
    for (PyTypeObject *base = type;; base = base->tp_base)
        for (size_t i = 0; i < sizeof bases / sizeof *bases && bases[i].type; i++)
            if (bases[i].type == base)
                return bases[i].make(type, args, kwargs);
}

extern PyObject *__real_PyType_FromSpec(PyType_Spec *spec);

HIDDEN PyObject *__wrap_PyType_FromSpec(PyType_Spec *spec)
{
    GUARD;
    PyTypeObject *type = (PyTypeObject *)__real_PyType_FromSpec(spec);
    is_inside = 0;
    if (!type)
        return NULL;
    type->tp_alloc = __wrap_PyType_GenericAlloc;
    if (PyType_HasFeature(type, Py_TPFLAGS_BASETYPE)) {
        size_t i = 0;
        while (bases[i].type)
            if (++i == sizeof bases / sizeof *bases)
                Py_FatalError("make room in `bases` for one more class that can be inherited from");
        bases[i].type = type;
        bases[i].make = type->tp_new;
        type->tp_new = make_guarded;
    }
    return (PyObject *)type;
}
#endif

PyObject *threadlets_get_attribute(getattrofunc get, PyObject *object, PyObject *name)
{
    GUARD;
    PyObject *value = get(object, name);
    is_inside = 0;
    return value;
}

int threadlets_set_attribute(setattrofunc set, PyObject *object, PyObject *name, PyObject *value)
{
    GUARD;
    int status = set(object, name, value);
    is_inside = 0;
    return status;
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
