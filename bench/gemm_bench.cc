// Dense products of training: y = x w^T, dx = dy w, weight and LoRA gradients at the shapes of SmolLM2-135M.
// gemm_bench [rows] [threads] prints the fastest run of each; bench/peers/gemm_peer.py runs the same in PyTorch.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "ops/gemm.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

OwnedTensor Random(int64_t rows, int64_t columns) {
  OwnedTensor tensor({rows, columns});
  uint32_t state = 1;
  for (int64_t i = 0; i < rows * columns; ++i) {
    state = state * 1664525 + 1013904223;
    tensor.view.f32()[i] = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return tensor;
}

double Seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// With one thread its CPU time, which other processes disturb less than the wall clock.
template <class F>
double Fastest(int threads, const F& run) {
  const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
  double best = 1e30, total = 0;
  for (int i = 0; i < 200 && (i < 5 || total < 0.4); ++i) {
    const double begin = Seconds(clock);
    run();
    const double seconds = Seconds(clock) - begin;
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

void Print(const char* op, Compute compute, int64_t m, int64_t n, int64_t k, double seconds) {
  fmt::print("{:10} {:4} {:5} x {:5} x {:5}  {:7.1f} GFLOP/s  {:8.3f} ms\n", op,
             compute == Compute::kBF16 ? "bf16" : "f32", m, n, k, 2e-9 * static_cast<double>(m * n * k) / seconds,
             seconds * 1e3);
  std::fflush(stdout);
}

PackedMatrix Packed(ThreadPool& pool, DType dtype, int64_t out, int64_t in) {
  const OwnedTensor values = Random(out, in);
  OwnedTensor stored(dtype, {out, in});
  for (int64_t row = 0; row < out; ++row) {
    Quantize(dtype, values.view.row(row), stored.view.as<uint8_t>() + row * stored.view.row_bytes(), in);
  }
  return PackedMatrix(pool, stored.view);
}

void Main(int64_t rows, int threads) {
  ThreadPool pool(threads);
  Workspace workspace;
  constexpr std::pair<int64_t, int64_t> kLayers[] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    for (const DType dtype : {DType::kBF16, DType::kQ4_1}) {
      for (const auto& [out, in] : kLayers) {
        const int64_t m = out > 10000 ? std::min<int64_t>(rows, 256) : rows;
        const PackedMatrix w = Packed(pool, dtype, out, in);
        const OwnedTensor x = Random(m, in), y({m, out}), dx({m, in});
        const Product product{&w, y.view};
        const std::string name(Info(dtype).name);
        Print(("y " + name).c_str(), compute, m, out, in, Fastest(threads, [&] {
                DenseMatMul(pool, workspace, compute, x.view, {&product, 1});
              }));
        Print(("dx " + name).c_str(), compute, m, in, out,
              Fastest(threads, [&] { MatMulBackward(pool, workspace, compute, y.view, w, dx.view); }));
      }
    }
    struct Case {
      const char* name;
      bool transpose_a, transpose_b;
      int64_t m, n, k;
      float beta;
    };
    const Case kCases[] = {
        {"gemm", false, false, rows, 576, 576, 0},     {"dw", true, false, 576, 1536, rows, 1},
        {"dw", true, false, 1536, 576, rows, 1},       {"dw", true, false, 576, 576, rows, 1},
        {"lora h", false, true, rows, 8, 576, 0},      {"lora y", false, true, rows, 576, 8, 1},
        {"lora dh", false, false, rows, 8, 1536, 0},   {"lora dx", false, false, rows, 576, 8, 1},
        {"lora da", true, false, 8, 576, rows, 1},     {"lora db", true, false, 1536, 8, rows, 1},
        {"lora h16", false, true, rows, 16, 576, 0},   {"lora y16", false, true, rows, 576, 16, 1},
        {"lora db16", true, false, 1536, 16, rows, 1},
    };
    for (const Case& c : kCases) {
      const OwnedTensor a = c.transpose_a ? Random(c.k, c.m) : Random(c.m, c.k);
      const OwnedTensor b = c.transpose_b ? Random(c.n, c.k) : Random(c.k, c.n);
      const OwnedTensor out({c.m, c.n});
      Print(c.name, compute, c.m, c.n, c.k, Fastest(threads, [&] {
              Gemm(pool, workspace, compute, c.transpose_a, c.transpose_b, 1.0f, a.view, b.view, c.beta, out.view);
            }));
    }
  }
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  cambium::Main(argc > 1 ? std::atoll(argv[1]) : 1024, argc > 2 ? std::atoi(argv[2]) : cambium::DefaultThreads());
}
