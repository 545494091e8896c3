// LD_PRELOAD: makes one allocation fail, or all from one on.
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

// Allocation number `failing` from the last call of fail_allocation on fails, with `sticky` also
// all later ones; 0: none.
static atomic_long failing, sticky, seen, failures;

void fail_allocation(long number, long all_later) {
  failing = 0;
  seen = failures = 0;
  sticky = all_later;
  failing = number;
}

long failed_allocations(void) { return failures; }

static int fails(void) {
  const long number = failing;
  if (number == 0) return 0;
  const long own = ++seen;
  if (own != number && !(sticky && own > number)) return 0;
  ++failures;
  errno = ENOMEM;
  return 1;
}

// glibc's own functions under other names: dlsym would allocate before they are known.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) { return fails() ? NULL : __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return fails() ? NULL : __libc_calloc(count, size); }
void* realloc(void* old, size_t size) { return fails() ? NULL : __libc_realloc(old, size); }
void* memalign(size_t line, size_t size) { return fails() ? NULL : __libc_memalign(line, size); }
void* aligned_alloc(size_t line, size_t size) { return memalign(line, size); }

int posix_memalign(void** result, size_t line, size_t size) {
  if (fails()) return ENOMEM;
  *result = __libc_memalign(line, size);
  return *result ? 0 : ENOMEM;
}
