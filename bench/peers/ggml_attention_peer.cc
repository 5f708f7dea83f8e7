// llama.cpp's ggml_flash_attn_ext on the CPU at attention_bench's shapes (9 heads, 3 kv heads, head_dim 64, f16 cache).
// Build against a llama.cpp tree:
//   g++ -O2 -std=c++17 -I LLAMA/ggml/include ggml_attention_peer.cc -L BIN -lggml -lggml-cpu -lggml-base -Wl,-rpath,BIN
//   ./a.out [threads] [context...]      CPU_TIME=1 prints process time, steadier than wall on a busy machine.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"

static double Ms() {
  timespec t;
  clock_gettime(std::getenv("CPU_TIME") ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

static void Measure(int threads, int64_t context, int64_t rows) {
  const int64_t keys = (context + rows + 63) / 64 * 64;
  ggml_init_params params{size_t(64) << 20 | size_t(keys * (3 * 64 * 4 + rows * 2) * 2), nullptr, false};
  ggml_context* ctx = ggml_init(params);
  ggml_tensor* q = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, 64, rows, 9);
  ggml_tensor* k = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, 64, keys, 3);
  ggml_tensor* v = ggml_new_tensor_3d(ctx, GGML_TYPE_F16, 64, keys, 3);
  ggml_tensor* mask = ggml_new_tensor_2d(ctx, GGML_TYPE_F16, keys, rows);
  for (int64_t i = 0; i < ggml_nelements(q); ++i) static_cast<float*>(q->data)[i] = float(rand()) / RAND_MAX - 0.5f;
  for (ggml_tensor* t : {k, v}) {
    for (int64_t i = 0; i < ggml_nelements(t); ++i) {
      static_cast<ggml_fp16_t*>(t->data)[i] = ggml_fp32_to_fp16(float(rand()) / RAND_MAX - 0.5f);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t key = 0; key < keys; ++key) {
      static_cast<ggml_fp16_t*>(mask->data)[row * keys + key] =
          ggml_fp32_to_fp16(key <= context + row ? 0.0f : -INFINITY);
    }
  }
  ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, mask, 0.125f, 0.0f, 0.0f);
  ggml_cgraph* graph = ggml_new_graph(ctx);
  ggml_build_forward_expand(graph, out);
  ggml_cplan plan = ggml_graph_plan(graph, threads, nullptr);
  std::vector<uint8_t> work(plan.work_size + 64);
  plan.work_data = work.data();
  double best = 1e30, spent = 0;
  for (int i = 0; i < 200 && (i < 3 || spent < 1000); ++i) {
    const double start = Ms();
    ggml_graph_compute(graph, &plan);
    best = std::min(best, Ms() - start);
    spent += Ms() - start;
  }
  std::printf("ggml past %6lld rows %4lld  %9.3f ms\n", (long long)context, (long long)rows, best);
  ggml_free(ctx);
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  ggml_cpu_init();
  std::vector<int64_t> contexts;
  for (int i = 2; i < argc; ++i) contexts.push_back(std::atoll(argv[i]));
  if (contexts.empty()) contexts = {512, 2048, 8192};
  for (int64_t context : contexts) {
    for (int64_t rows : {1, 4, 16, 63, 512}) Measure(threads, context, rows);
  }
}
