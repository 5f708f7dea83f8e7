// libcambium_mpi.so, opened at run time (scale/launch.cc).
#include "scale/mpi/module.h"

#include <mpi.h>

#include <cstdio>

namespace {

int Start(int* rank, int* size, char* why, int why_size) {
  int ready = 0, provided = 0;
  MPI_Initialized(&ready);
  if (ready == 0 && MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
    std::snprintf(why, static_cast<size_t>(why_size), "MPI_Init failed");
    return 1;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, rank);
  MPI_Comm_size(MPI_COMM_WORLD, size);
  return 0;
}

void* Made(MPI_Request request, int result) { return result == MPI_SUCCESS ? new MPI_Request(request) : nullptr; }

void* Send(const void* data, int64_t bytes, int to, int tag) {
  MPI_Request request;
  const int result = MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, MPI_COMM_WORLD, &request);
  return Made(request, result);
}

void* Receive(void* data, int64_t bytes, int from, int tag) {
  MPI_Request request;
  const int result = MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, tag, MPI_COMM_WORLD, &request);
  return Made(request, result);
}

int Done(void* request) {
  int flag = 0;
  const int result = MPI_Test(static_cast<MPI_Request*>(request), &flag, MPI_STATUS_IGNORE);
  if (result == MPI_SUCCESS && flag == 0) return 0;
  delete static_cast<MPI_Request*>(request);
  return result == MPI_SUCCESS ? 1 : -1;
}

int Waits(int tag, int* from, int64_t* bytes) {
  int flag = 0, count = 0;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &flag, &status) != MPI_SUCCESS || flag == 0) return 0;
  MPI_Get_count(&status, MPI_BYTE, &count);
  *from = status.MPI_SOURCE;
  *bytes = count;
  return 1;
}

void Close() { MPI_Finalize(); }

constexpr CambiumMpi kModule = {CAMBIUM_MPI_VERSION, Start, Send, Receive, Done, Waits, Close};

}  // namespace

extern "C" __attribute__((visibility("default"))) const CambiumMpi* cambium_mpi() { return &kModule; }
