// The matrix products of one pass over SmolLM2-135M, on synthetic weights:
//   matmul_bench [threads] [seconds a point]
// Per row count: time, weight bandwidth, integer operations and the ratio to one row, beside the DRAM bandwidth of the
// same minute; then each storage format alone.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

#include "base/isa.h"
#include "base/parallel.h"
#include "base/random.h"
#include "ops/matmul.h"

namespace cambium {
namespace {

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The least time of every piece of a repeated job, summed: what the job takes when nobody interrupts it.
class LeastTimes {
 public:
  template <class F>
  void Time(const F& f) {
    const double start = Seconds();
    f();
    const double seconds = Seconds() - start;
    if (next_ == times_.size()) times_.push_back(seconds);
    times_[next_] = std::min(times_[next_], seconds);
    ++next_;
  }
  void Restart() { next_ = 0; }
  double Sum() const { return std::accumulate(times_.begin(), times_.end(), 0.0); }

 private:
  std::vector<double> times_;
  size_t next_ = 0;
};

// job(times) again and again, for `budget` seconds and at least five times.
template <class Job>
double Best(double budget, const Job& job) {
  LeastTimes times;
  const double end = Seconds() + budget;
  for (int repeat = 0; repeat < 5 || Seconds() < end; ++repeat) {
    times.Restart();
    job(times);
  }
  return times.Sum();
}

PackedMatrix Synthetic(ThreadPool& pool, DType dtype, int64_t out, int64_t in) {
  Buffer stored(static_cast<size_t>(Tensor(nullptr, dtype, {out, in}).bytes()));
  uint64_t state = 88172645463325252ull;
  for (size_t i = 0; i < stored.bytes() / 2; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    stored.as<uint16_t>()[i] = static_cast<uint16_t>(state) & 0xBFFF;  // every f16 in it is finite
  }
  return PackedMatrix(pool, Tensor(stored.data(), dtype, {out, in}));
}

struct Model {
  // Super-blocks of 256 do not divide 576: those formats are measured with a hidden size of 512.
  Model(ThreadPool& pool, DType dtype, DType head_dtype) : hidden(Info(dtype).block == 256 ? 512 : 576) {
    for (int layer = 0; layer < 30; ++layer) {
      for (const auto& [out, in] : {std::pair<int64_t, int64_t>{hidden, hidden},
                                    {192, hidden},
                                    {192, hidden},
                                    {hidden, hidden},
                                    {1536, hidden},
                                    {1536, hidden},
                                    {hidden, 1536}}) {
        matrices.push_back(Synthetic(pool, dtype, out, in));
      }
    }
    head = Synthetic(pool, head_dtype, 49152, hidden);
  }
  int64_t bytes(bool with_head) const {
    int64_t sum = with_head ? head.bytes() : 0;
    for (const PackedMatrix& m : matrices) sum += m.bytes();
    return sum;
  }
  double multiplies(bool with_head) const {
    double sum = with_head ? static_cast<double>(head.out()) * head.in() : 0;
    for (const PackedMatrix& m : matrices) sum += static_cast<double>(m.out()) * m.in();
    return sum;
  }
  void Pass(ThreadPool& pool, Workspace& workspace, Compute compute, int64_t rows, bool with_head, float* x, float* y,
            LeastTimes& times) {
    const auto at = [&](int64_t columns, int64_t offset) { return Tensor(y + offset * rows, {rows, columns}); };
    for (size_t i = 0; i < matrices.size(); i += 7) {
      const PackedMatrix* m = &matrices[i];
      const Product qkv[] = {{m, at(hidden, 0)}, {m + 1, at(192, 576)}, {m + 2, at(192, 768)}};
      const Product o[] = {{m + 3, at(hidden, 0)}};
      const Product gate_up[] = {{m + 4, at(1536, 0)}, {m + 5, at(1536, 1536)}};
      const Product down[] = {{m + 6, at(hidden, 0)}};
      times.Time([&] { MatMul(pool, workspace, compute, Tensor(x, {rows, hidden}), qkv); });
      times.Time([&] { MatMul(pool, workspace, compute, Tensor(x, {rows, hidden}), o); });
      times.Time([&] { MatMul(pool, workspace, compute, Tensor(x, {rows, hidden}), gate_up); });
      times.Time([&] { MatMul(pool, workspace, compute, Tensor(x, {rows, 1536}), down); });
    }
    const Product logits[] = {{&head, at(49152, 0)}};
    if (with_head) times.Time([&] { MatMul(pool, workspace, compute, Tensor(x, {rows, hidden}), logits); });
  }
  std::vector<PackedMatrix> matrices;
  int64_t hidden;
  PackedMatrix head;
};

// Bytes a second when every thread reads its share of 512 MiB.
double ReadBandwidth(ThreadPool& pool, double budget) {
  const Buffer buffer(size_t{512} << 20);
  constexpr int64_t kPiece = int64_t{1} << 20;
  const int64_t pieces = static_cast<int64_t>(buffer.bytes()) / kPiece;
  std::vector<uint64_t> sums(pieces);
  for (size_t i = 0; i < buffer.bytes() / 8; i += 512)
    buffer.as<uint64_t>()[i] = i;  // untouched pages are one zero page
  const double seconds = Best(budget, [&](LeastTimes& times) {
    const auto read = [&](int64_t piece, int) {
      const uint64_t* from = buffer.as<uint64_t>() + piece * kPiece / 8;
      uint64_t sum[8] = {};
      for (int64_t i = 0; i < kPiece / 8; i += 8) {
        for (int j = 0; j < 8; ++j) sum[j] += from[i + j];
      }
      for (const uint64_t s : sum) sums[piece] += s;
    };
    for (int64_t begin = 0; begin < pieces; begin += 8) {
      times.Time([&] { pool.Run(8, [&](int64_t i, int thread) { read(begin + i, thread); }); });
    }
  });
  return static_cast<double>(buffer.bytes()) / seconds;
}

void Run(int threads, double budget) {
  ThreadPool pool(threads);
  Workspace workspace;
  const Philox random(1);
  const OwnedTensor x({512 * 1536}), y({512 * 3072 + 16 * 49152});
  for (int64_t i = 0; i < x.view.size(); ++i) x.view.f32()[i] = static_cast<float>(random.Normal(i));

  {
    Model model(pool, DType::kQ4_1, DType::kQ8_0);
    const double dram = ReadBandwidth(pool, budget);
    fmt::print("{} threads, {}; DRAM read {:.1f} GB/s\n", threads, IsaName(), dram * 1e-9);
    fmt::print("Q4_1, head Q8_0, {:.1f} MB\n rows      ms   GB/s  of DRAM    GOP/s  T(n)/T(1)\n",
               static_cast<double>(model.bytes(true)) * 1e-6);
    double one = 0;
    for (const int rows : {1, 2, 3, 4, 6, 8, 12, 16}) {
      const double t = Best(budget, [&](LeastTimes& times) {
        model.Pass(pool, workspace, Compute::kInt8, rows, true, x.view.f32(), y.view.f32(), times);
      });
      if (rows == 1) one = t;
      const double rate = static_cast<double>(model.bytes(true)) / t;
      fmt::print("{:5} {:7.2f} {:6.1f} {:7.0f}% {:8.0f} {:9.2f}\n", rows, t * 1e3, rate * 1e-9, 100 * rate / dram,
                 2e-9 * rows * model.multiplies(true) / t, t / one);
    }
    for (const int rows : {64, 512}) {
      const double t = Best(budget, [&](LeastTimes& times) {
        model.Pass(pool, workspace, Compute::kInt8, rows, false, x.view.f32(), y.view.f32(), times);
      });
      fmt::print("{:5} {:7.2f} without the head: {:.0f} tokens/s, {:.0f} GOP/s\n", rows, t * 1e3, rows / t,
                 2e-9 * rows * model.multiplies(false) / t);
    }
  }

  fmt::print(
      "each format alone, all layers and head\n format   MB     n=1 ms   GB/s   n=8 ms  T(8)/T(1)  n=512 tokens/s\n");
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ4_K, DType::kQ5_K,
                            DType::kQ6_K, DType::kQ8_0, DType::kF16, DType::kBF16, DType::kF32}) {
    Model model(pool, dtype, dtype);
    const auto pass = [&](int rows, bool head) {
      return Best(budget, [&](LeastTimes& times) {
        model.Pass(pool, workspace, Compute::kInt8, rows, head, x.view.f32(), y.view.f32(), times);
      });
    };
    const double one = pass(1, true), eight = pass(8, true), many = pass(512, false);
    fmt::print("{:>6} {:6.1f} {:9.2f} {:6.1f} {:8.2f} {:9.2f} {:12.0f}\n", Info(dtype).name,
               static_cast<double>(model.bytes(true)) * 1e-6, one * 1e3,
               static_cast<double>(model.bytes(true)) / one * 1e-9, eight * 1e3, eight / one, 512 / many);
  }
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  try {
    cambium::ApplyIsaFromEnv();
    cambium::Run(argc > 1 ? std::atoi(argv[1]) : cambium::DefaultThreads(), argc > 2 ? std::atof(argv[2]) : 0.5);
  } catch (const cambium::Error& error) {
    fmt::print(stderr, "matmul_bench: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
