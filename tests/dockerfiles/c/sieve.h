#include <stddef.h>

/* Sets composite[i] for every i below n that is no prime. */
void sieve(unsigned char *composite, size_t n);
