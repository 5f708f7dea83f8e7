// What libcambium_mpi.so offers: the few functions of an MPI library that a run needs, behind a C interface, so that
// the program itself needs no MPI and one program serves several (the ABI of Open MPI is not that of MPICH).
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAMBIUM_MPI_VERSION 1

struct CambiumMpi {
  int version;
  // Enters the job. Zero, or the reason in why.
  int (*start)(int* rank, int* size, char* why, int why_size);
  // Requests: null where the library refused.
  void* (*send)(const void* data, int64_t bytes, int to, int tag);
  void* (*receive)(void* data, int64_t bytes, int from, int tag);
  int (*done)(void* request);  // 1: done, and the request is gone; 0: not yet; -1: it failed, and is gone
  int (*waits)(int tag, int* from, int64_t* bytes);
  void (*close)(void);
};

// The one symbol of the library.
const struct CambiumMpi* cambium_mpi(void);

#ifdef __cplusplus
}
#endif
