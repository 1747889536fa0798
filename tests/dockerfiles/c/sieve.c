#include "sieve.h"

void sieve(unsigned char *composite, size_t n)
{
	for (size_t i = 2; i * i < n; i++)
		for (size_t k = i * i; !composite[i] && k < n; k += i)
			composite[k] = 1;
}
