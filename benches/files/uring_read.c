/* What io_uring can read: opens, reads and closes every file of a list, in the way that is asked for.
 *
 *   cc -O2 -pthread -o uring_read uring_read.c
 *   uring_read PATHS MODE DEPTH SECONDS [OPTION ...]
 *
 * PATHS names a file that holds one path to a line. Laps over all paths are made until SECONDS are over,
 * one at least, and what each took is printed as JSON. The kernel's interface is used as it is: what is
 * measured is the kernel, and the program needs no library to build.
 *
 * Modes, with DEPTH files at once:
 *   sync      open(2), read(2), close(2), on DEPTH threads
 *   fd        each of the three a request of its own
 *   fd-link   open; then read and close as one chain
 *   direct    each of the three a request of its own, on descriptors of the ring
 *   link      open, read and close as one chain, on descriptors of the ring
 *   replace   open and read as one chain; a slot's next file takes the place of the last one
 *
 * Options:
 *   cold       empty the kernel's caches before each lap (root)
 *   fixed      read into registered buffers
 *   skip       no completion for an open in a chain that succeeds
 *   plain      neither SINGLE_ISSUER nor DEFER_TASKRUN
 *   async      opens go to a worker thread at once, without an attempt where they stand
 *   workers=N  at most N worker threads
 *   wait=N     return to us for N completions, not for each
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FILE_MAX = 4096, DEPTH_MAX = 4096, LAPS_MAX = 1000 };
enum mode { SYNC, FD, FD_LINK, DIRECT, LINK, REPLACE, N_MODES };
static const char *const MODES[] = {"sync", "fd", "fd-link", "direct", "link", "replace"};

enum step { OPEN, READ, CLOSE };

static struct {
    enum mode mode;
    unsigned depth, workers, wait;
    double seconds;
    bool cold, fixed, skip, plain, async;
} ask = {.wait = 1};

static struct {
    char *text;
    char **at;
    size_t n;
} paths;

/* What a lap has come to. */
static struct {
    size_t n_bytes, n_files, n_enters;
} lap;

/* One file at a time. */
struct slot {
    unsigned n_pending;
    int fd;
};

static struct slot slots[DEPTH_MAX];
static char *buffers;

static struct {
    int fd;
    unsigned n_queued, sq_mask, cq_mask;
    _Atomic unsigned *sq_tail, *cq_head, *cq_tail;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} ring;

static void die(const char *what, int error) {
    fprintf(stderr, "uring_read: %s: %s\n", what, strerror(error));
    exit(1);
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Worker threads of the ring are ours too. */
static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* ---- the ring ---- */

static void register_or_die(unsigned what, const void *arg, unsigned n, const char *name) {
    if (syscall(SYS_io_uring_register, ring.fd, what, arg, n) < 0)
        die(name, errno);
}

static void set_up_ring(void) {
    struct io_uring_params params = {.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE};
    if (!ask.plain)
        params.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    unsigned n_entries = 3 * ask.depth;
    params.cq_entries = 2 * n_entries;
    ring.fd = (int)syscall(SYS_io_uring_setup, n_entries, &params);
    if (ring.fd < 0)
        die("io_uring_setup", errno);

    size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    size_t size = sq_size > cq_size ? sq_size : cq_size;
    int protection = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_POPULATE;
    char *shared = mmap(NULL, size, protection, flags, ring.fd, IORING_OFF_SQ_RING);
    ring.sqes = mmap(NULL, params.sq_entries * sizeof(struct io_uring_sqe), protection, flags,
                     ring.fd, IORING_OFF_SQES);
    if (shared == MAP_FAILED || (void *)ring.sqes == MAP_FAILED)
        die("mmap of the ring", errno);
    ring.sq_tail = (_Atomic unsigned *)(shared + params.sq_off.tail);
    ring.sq_mask = *(unsigned *)(shared + params.sq_off.ring_mask);
    ring.cq_head = (_Atomic unsigned *)(shared + params.cq_off.head);
    ring.cq_tail = (_Atomic unsigned *)(shared + params.cq_off.tail);
    ring.cq_mask = *(unsigned *)(shared + params.cq_off.ring_mask);
    ring.cqes = (struct io_uring_cqe *)(shared + params.cq_off.cqes);
    unsigned *array = (unsigned *)(shared + params.sq_off.array);
    for (unsigned idx = 0; idx < params.sq_entries; idx++)
        array[idx] = idx;

    if (ask.mode >= DIRECT) {
        struct io_uring_rsrc_register files = {.nr = ask.depth, .flags = IORING_RSRC_REGISTER_SPARSE};
        register_or_die(IORING_REGISTER_FILES2, &files, sizeof files, "registering descriptors");
    }
    if (ask.fixed) {
        static struct iovec vectors[DEPTH_MAX];
        for (unsigned idx = 0; idx < ask.depth; idx++)
            vectors[idx] = (struct iovec){buffers + (size_t)idx * FILE_MAX, FILE_MAX};
        register_or_die(IORING_REGISTER_BUFFERS, vectors, ask.depth, "registering buffers");
    }
    if (ask.workers) {
        unsigned limits[2] = {ask.workers, 0};
        register_or_die(IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2, "limiting workers");
    }
}

/* There is room: the ring has entries for three requests of each slot. */
static struct io_uring_sqe *queue(enum step step, unsigned slot_idx, unsigned flags) {
    unsigned tail = *ring.sq_tail + ring.n_queued++;
    struct io_uring_sqe *sqe = &ring.sqes[tail & ring.sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->user_data = (uint64_t)slot_idx << 2 | step;
    sqe->flags = (uint8_t)flags;
    slots[slot_idx].n_pending++;
    return sqe;
}

static void queue_open(unsigned slot_idx, const char *path, unsigned flags) {
    if (ask.async)
        flags |= IOSQE_ASYNC;
    struct io_uring_sqe *sqe = queue(OPEN, slot_idx, flags);
    sqe->opcode = IORING_OP_OPENAT;
    sqe->fd = AT_FDCWD;
    sqe->addr = (uint64_t)(uintptr_t)path;
    /* The kernel refuses O_CLOEXEC for a descriptor of the ring, which no program inherits. */
    sqe->open_flags = ask.mode >= DIRECT ? O_RDONLY : O_RDONLY | O_CLOEXEC;
    sqe->file_index = ask.mode >= DIRECT ? slot_idx + 1 : 0;
    if (flags & IOSQE_CQE_SKIP_SUCCESS)
        slots[slot_idx].n_pending--;
}

static void queue_read(unsigned slot_idx, unsigned flags) {
    struct io_uring_sqe *sqe = queue(READ, slot_idx, flags);
    sqe->opcode = ask.fixed ? IORING_OP_READ_FIXED : IORING_OP_READ;
    sqe->fd = ask.mode >= DIRECT ? (int)slot_idx : slots[slot_idx].fd;
    sqe->flags |= ask.mode >= DIRECT ? IOSQE_FIXED_FILE : 0;
    sqe->addr = (uint64_t)(uintptr_t)(buffers + (size_t)slot_idx * FILE_MAX);
    sqe->len = FILE_MAX;
    sqe->buf_index = (uint16_t)(ask.fixed ? slot_idx : 0);
}

static void queue_close(unsigned slot_idx) {
    struct io_uring_sqe *sqe = queue(CLOSE, slot_idx, 0);
    sqe->opcode = IORING_OP_CLOSE;
    sqe->fd = ask.mode >= DIRECT ? 0 : slots[slot_idx].fd;
    sqe->file_index = ask.mode >= DIRECT ? slot_idx + 1 : 0;
}

static void submit(unsigned n_wanted) {
    atomic_store_explicit(ring.sq_tail, *ring.sq_tail + ring.n_queued, memory_order_release);
    int n = (int)syscall(SYS_io_uring_enter, ring.fd, ring.n_queued, n_wanted,
                         IORING_ENTER_GETEVENTS, NULL, 0);
    if (n < 0 || (unsigned)n != ring.n_queued)
        die("io_uring_enter", n < 0 ? errno : EBUSY);
    ring.n_queued = 0;
    lap.n_enters++;
}

/* ---- the ways of reading ---- */

static void begin(unsigned slot_idx, const char *path) {
    unsigned skip = ask.skip ? IOSQE_CQE_SKIP_SUCCESS : 0;
    switch (ask.mode) {
    case LINK:
        /* A read that fills less than the buffer counts as failed, and would cancel a soft link. */
        queue_open(slot_idx, path, IOSQE_IO_LINK | skip);
        queue_read(slot_idx, IOSQE_IO_HARDLINK);
        queue_close(slot_idx);
        break;
    case REPLACE:
        queue_open(slot_idx, path, IOSQE_IO_LINK | skip);
        queue_read(slot_idx, 0);
        break;
    default:
        queue_open(slot_idx, path, 0);
    }
}

/* Take a completion, and queue what comes next; tell whether the slot is free again. */
static bool go_on(unsigned slot_idx, enum step step, int result) {
    static const char *const steps[] = {"open", "read", "close"};
    if (result < 0)
        die(steps[step], -result);
    struct slot *slot = &slots[slot_idx];
    slot->n_pending--;
    if (step == READ) {
        lap.n_bytes += (size_t)result;
        lap.n_files++;
    }
    if (ask.mode == LINK || ask.mode == REPLACE)
        return slot->n_pending == 0;
    if (step == OPEN) {
        slot->fd = result;
        queue_read(slot_idx, ask.mode == FD_LINK ? IOSQE_IO_HARDLINK : 0);
        if (ask.mode == FD_LINK)
            queue_close(slot_idx);
    } else if (step == READ && ask.mode != FD_LINK) {
        queue_close(slot_idx);
    }
    return slot->n_pending == 0;
}

static void read_all_by_ring(void) {
    size_t n_begun = 0;
    unsigned n_busy = 0;
    for (unsigned idx = 0; idx < ask.depth && n_begun < paths.n; idx++, n_busy++)
        begin(idx, paths.at[n_begun++]);
    while (n_busy) {
        submit(ask.wait < n_busy ? ask.wait : n_busy);
        unsigned head = *ring.cq_head;
        unsigned tail = atomic_load_explicit(ring.cq_tail, memory_order_acquire);
        for (; head != tail; head++) {
            struct io_uring_cqe cqe = ring.cqes[head & ring.cq_mask];
            unsigned slot_idx = (unsigned)(cqe.user_data >> 2);
            if (!go_on(slot_idx, (enum step)(cqe.user_data & 3), cqe.res))
                continue;
            if (n_begun < paths.n)
                begin(slot_idx, paths.at[n_begun++]);
            else
                n_busy--;
        }
        atomic_store_explicit(ring.cq_head, head, memory_order_release);
    }
}

static atomic_size_t next_path;
static atomic_size_t n_bytes_of_all;

static void *read_some(void *buffer) {
    size_t n_bytes = 0;
    for (size_t idx; (idx = atomic_fetch_add(&next_path, 1)) < paths.n;) {
        int fd = open(paths.at[idx], O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            die("open", errno);
        ssize_t n = read(fd, buffer, FILE_MAX);
        if (n < 0)
            die("read", errno);
        close(fd);
        n_bytes += (size_t)n;
    }
    atomic_fetch_add(&n_bytes_of_all, n_bytes);
    return NULL;
}

static void read_all_on_threads(void) {
    static pthread_t threads[DEPTH_MAX];
    next_path = n_bytes_of_all = 0;
    for (unsigned idx = 1; idx < ask.depth; idx++)
        if (pthread_create(&threads[idx], NULL, read_some, buffers + (size_t)idx * FILE_MAX))
            die("pthread_create", EAGAIN);
    read_some(buffers);
    for (unsigned idx = 1; idx < ask.depth; idx++)
        pthread_join(threads[idx], NULL);
    lap.n_bytes = n_bytes_of_all;
    lap.n_files = paths.n;
}

static void take_lap(void) {
    memset(&lap, 0, sizeof lap);
    if (ask.mode == SYNC)
        read_all_on_threads();
    else
        read_all_by_ring();
}

/* ---- the command line ---- */

static void load_paths(const char *list) {
    FILE *file = fopen(list, "r");
    if (!file || fseek(file, 0, SEEK_END))
        die(list, errno);
    size_t size = (size_t)ftell(file);
    rewind(file);
    paths.text = malloc(size + 1);
    paths.at = malloc((size + 1) * sizeof(char *));
    if (!paths.text || !paths.at || fread(paths.text, 1, size, file) != size)
        die(list, EIO);
    paths.text[size] = 0;
    fclose(file);
    for (char *line = strtok(paths.text, "\n"); line; line = strtok(NULL, "\n"))
        paths.at[paths.n++] = line;
}

static void empty_caches(void) {
    sync();
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (fd < 0 || write(fd, "3", 1) != 1)
        die("/proc/sys/vm/drop_caches", errno);
    close(fd);
}

static void ask_for(const char *option) {
    if (!strcmp(option, "cold"))
        ask.cold = true;
    else if (!strcmp(option, "fixed"))
        ask.fixed = true;
    else if (!strcmp(option, "skip"))
        ask.skip = true;
    else if (!strcmp(option, "plain"))
        ask.plain = true;
    else if (!strcmp(option, "async"))
        ask.async = true;
    else if (sscanf(option, "workers=%u", &ask.workers) != 1 &&
             sscanf(option, "wait=%u", &ask.wait) != 1)
        die(option, EINVAL);
}

static void read_command_line(int n_args, char **args) {
    if (n_args < 5) {
        fputs("usage: uring_read PATHS MODE DEPTH SECONDS [OPTION ...]\n", stderr);
        exit(2);
    }
    while (ask.mode < N_MODES && strcmp(args[2], MODES[ask.mode]))
        ask.mode++;
    ask.depth = (unsigned)atoi(args[3]);
    ask.seconds = atof(args[4]);
    if (ask.mode == N_MODES || ask.depth < 1 || ask.depth > DEPTH_MAX)
        die("MODE or DEPTH", EINVAL);
    for (int idx = 5; idx < n_args; idx++)
        ask_for(args[idx]);
    load_paths(args[1]);
}

int main(int n_args, char **args) {
    read_command_line(n_args, args);
    buffers = aligned_alloc(FILE_MAX, (size_t)ask.depth * FILE_MAX);
    if (!buffers)
        die("buffers", ENOMEM);
    memset(buffers, 0, (size_t)ask.depth * FILE_MAX);
    if (ask.mode != SYNC)
        set_up_ring();

    if (!ask.cold)
        /* Brings everything in; the laps that count find it there. */
        take_lap();
    printf("[");
    double until_s = now_s() + ask.seconds;
    for (unsigned n_laps = 0; n_laps == 0 || (now_s() < until_s && n_laps < LAPS_MAX); n_laps++) {
        if (ask.cold)
            empty_caches();
        double cpu_before_s = cpu_s(), started_s = now_s();
        take_lap();
        double took_s = now_s() - started_s;
        printf("%s{\"wall_s\": %.6f, \"cpu_s\": %.6f, \"n_files\": %zu, \"n_bytes\": %zu, "
               "\"n_enters\": %zu}",
               n_laps ? ", " : "", took_s, cpu_s() - cpu_before_s, lap.n_files, lap.n_bytes,
               lap.n_enters);
    }
    printf("]\n");
    return 0;
}
