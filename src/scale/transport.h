#pragma once

#include <cstdint>

namespace cambium {

// Messages among the processes of a run, in order between two of them under one tag. Libraries below do the work: MPI
// (scale/mpi_transport.h); tests have threads.
class Transport {
 public:
  enum Tag : int { kData = 1, kFailed, kHere, kBye };
  using Request = void*;  // null: done already

  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Both return at once; the bytes must stay until Done. kRuntime where the library refuses.
  virtual Request Send(const void* data, int64_t bytes, int to, Tag tag) = 0;
  virtual Request Receive(void* data, int64_t bytes, int from, Tag tag) = 0;
  virtual bool Done(Request& request) = 0;  // true once, which ends the request
  // Whether a message under `tag` waits: its sender and length.
  virtual bool Waits(Tag tag, int& from, int64_t& bytes) = 0;
  virtual void Close() = 0;  // all ranks call it, with no message under way
};

}  // namespace cambium
