// Attention alone, at the default model's shape (9 heads, 3 kv heads, head_dim 64): milliseconds a layer for a decode
// step, a tree, a prefill block, and for training's forward and backward. Minimum over repetitions.
//   attention_bench [threads] [context...]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/isa.h"
#include "base/random.h"
#include "ops/attention.h"
#include "ops/ops.h"

namespace cambium {
namespace {

constexpr AttentionShape kShape{9, 3, 64, 0.125f};

template <class F>
double MinMs(const F& f, double budget_ms = 1500) {
  double best = 1e30, spent = 0;
  for (int i = 0; i < 200 && (i < 3 || spent < budget_ms); ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    best = std::min(best, ms);
    spent += ms;
  }
  return best;
}

OwnedTensor Random(int64_t rows, int64_t columns, uint64_t stream) {
  OwnedTensor tensor({rows, columns});
  const Philox random(stream);
  for (int64_t i = 0; i < tensor.view.size(); ++i) {
    tensor.view.f32()[i] = static_cast<float>(random.Uniform(static_cast<uint64_t>(i)) * 2 - 1);
  }
  return tensor;
}

struct Cache {
  Cache(ThreadPool& pool, DType dtype, int64_t slots)
      : buffer(static_cast<size_t>((slots + 15) / 16 * KvLayer::PageBytes(dtype, 3, 64))),
        layer{buffer.data(), dtype, 3, 64, KvLayer::PageBytes(dtype, 3, 64)} {
    for (int32_t page = 0; page < (slots + 15) / 16; ++page) pages.push_back(page);
    k = Random(slots, 192, 1), v = Random(slots, 192, 2);
    const AttentionSegment all{pages, 0, 0, slots, {}};
    StoreKv(pool, layer, {&all, 1}, k.view, v.view);
  }
  Buffer buffer;
  KvLayer layer;
  std::vector<int32_t> pages;
  OwnedTensor k, v;
};

void Serve(ThreadPool& pool, DType dtype, int64_t context, int64_t rows) {
  Workspace workspace;
  Cache cache(pool, dtype, context + rows);
  OwnedTensor q = Random(rows, 576, 3), out({rows, 576});
  const AttentionSegment segment{cache.pages, context, 0, rows, {}};
  const double ms = MinMs([&] {
    workspace.Reset();
    Attention(pool, workspace, kShape, cache.layer, {&segment, 1}, q.view, out.view);
  });
  const double flops =
      4.0 * 9 * 64 * static_cast<double>(rows) * (static_cast<double>(context) + 0.5 * static_cast<double>(rows + 1));
  std::printf("serve %s past %6lld rows %4lld  %9.3f ms  %6.1f GFLOP/s  workspace %.1f MB\n",
              std::string(Info(dtype).name).c_str(), static_cast<long long>(context), static_cast<long long>(rows), ms,
              flops / ms * 1e-6, static_cast<double>(workspace.peak_bytes()) * 1e-6);
}

void Train(ThreadPool& pool, int64_t length) {
  Workspace workspace;
  Cache cache(pool, DType::kF32, length);
  OwnedTensor q = Random(length, 576, 3), out({length, 576}), lse({length, 9}), dout = Random(length, 576, 4);
  OwnedTensor dq({length, 576}), dk({length, 192}), dv({length, 192});
  const AttentionSegment segment{cache.pages, 0, 0, length, {}};
  const double forward = MinMs([&] {
    workspace.Reset();
    Attention(pool, workspace, kShape, cache.layer, {&segment, 1}, q.view, out.view, lse.view);
  });
  const double forward_mb = static_cast<double>(workspace.peak_bytes()) * 1e-6;
  const double backward = MinMs([&] {
    workspace.Reset();
    AttentionBackward(pool, workspace, kShape, {&segment, 1}, q.view, cache.k.view, cache.v.view, {}, {}, out.view,
                      lse.view, dout.view, dq.view, dk.view, dv.view, {}, {});
  });
  const double product = 2.0 * 9 * 64 * static_cast<double>(length) * static_cast<double>(length + 1) / 2;
  std::printf(
      "train length %6lld  forward %9.2f ms %6.1f GFLOP/s  backward %9.2f ms %6.1f GFLOP/s  sum %9.2f ms  "
      "workspace %.1f + %.1f MB\n",
      static_cast<long long>(length), forward, 2 * product / forward * 1e-6, backward, 5 * product / backward * 1e-6,
      forward + backward, forward_mb, static_cast<double>(workspace.peak_bytes()) * 1e-6);
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  cambium::ApplyIsaFromEnv();
  cambium::ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : cambium::DefaultThreads());
  std::printf("%s, %d threads\n", cambium::IsaName(), pool.threads());
  std::vector<int64_t> contexts;
  for (int i = 2; i < argc; ++i) contexts.push_back(std::atoll(argv[i]));
  if (contexts.empty()) contexts = {512, 2048, 8192};
  for (const int64_t context : contexts) {
    for (const int64_t rows : {1, 4, 16, 63, 512}) cambium::Serve(pool, cambium::DType::kF16, context, rows);
  }
  for (const int64_t context : contexts) cambium::Train(pool, context);
}
