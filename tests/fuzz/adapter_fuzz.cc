// An adapter or draft heads, in files of every dialect, loaded onto a tiny Llama and run. The input is a small archive:
// a byte that chooses the names of its files, then each file as a 16-bit length and its bytes; an empty one is left
// out. A safetensors file is two such pieces, its header and its data, so that its header stays one whatever its
// length.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cambium/error.h"
#include "fuzz_folder.h"
#include "grafts/grafts.h"
#include "model/transformer.h"
#include "tiny_model.h"

namespace {

using namespace cambium;

const std::vector<std::vector<std::string>> kDialects = {
    {"adapter_config.json", "adapter_model.safetensors"},                       // PEFT
    {"adapter_config.json", "adapter.safetensors"},                             // AdapterHub
    {"adapter_config.json", "adapters.safetensors"},                            // MLX
    {"adapter.gguf"},                                                           // llama.cpp
    {"heads.json", "medusa_lm_head.safetensors", "config.json"},                // Medusa
    {"heads.json", "mtp.safetensors"},                                          // multi-token prediction
    {"heads.json", "exit_head.safetensors"},                                    // an early exit
    {"adapter_config.json", "adapter_model.safetensors", "whole.safetensors"},  // a delta
    {"adapter_config.json", "adapter_model.safetensors", "heads.json", "exit_head.safetensors"}};  // a bundle

class Archive {
 public:
  explicit Archive(std::string_view rest) : rest_(rest) {}
  uint8_t Byte() {
    const std::string_view taken = Take(1);
    return taken.empty() ? 0 : static_cast<uint8_t>(taken[0]);
  }
  std::string_view Piece() {
    const size_t low = Byte(), high = Byte();
    return Take(low | high << 8);
  }

 private:
  std::string_view Take(size_t count) {
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  std::string_view rest_;
};

std::string Safetensors(std::string_view header, std::string_view data) {
  if (header.empty()) return "";
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> 8 * i & 255);
  return bytes.append(header).append(data);
}

// Three tokens behind whatever the grafts put before a text.
void Run(Transformer& model, const std::vector<std::unique_ptr<Graft>>& loaded) {
  const std::vector<int32_t> ids = {3, 1, 4};
  std::vector<Graft*> grafts;
  int64_t before = 0;
  for (const auto& graft : loaded) {
    graft->VisitParams([](Parameter&) {});
    if (graft->heads() != nullptr) continue;
    grafts.push_back(graft.get());
    before += graft->slots_before();
  }
  if (grafts.empty() || before > 64) return;
  KvCache kv(model.config(), DType::kF32, before + static_cast<int64_t>(ids.size()));
  const KvCache::Id sequence = kv.Open();
  Pass pass;
  pass.compute = Compute::kF32;
  pass.kv = &kv;
  pass.Append(sequence, model.BeginSequence(kv, sequence, grafts), ids).grafts = grafts;
  pass.logit_rows = {static_cast<int32_t>(ids.size()) - 1};
  model.Forward(pass);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const FuzzFolder folder;
  static ThreadPool pool(1);
  static Transformer model(
      TinyModel(
          pool, 1,
          {.layers = 2, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .vocab = 20, .context = 64}),
      pool);
  Archive archive({reinterpret_cast<const char*>(data), size});
  const std::vector<std::string>& names = kDialects[archive.Byte() % kDialects.size()];
  for (const std::string& name : names) {
    const std::string_view piece = archive.Piece();
    const std::string bytes = name.ends_with(".safetensors") ? Safetensors(piece, archive.Piece()) : std::string(piece);
    if (!bytes.empty()) folder.Write(name, bytes);
  }
  try {
    Run(model, LoadGrafts(names.size() == 1 ? folder.path() + "/" + names[0] : folder.path(), model.base()));
  } catch (const Error&) {
  }
  for (const std::string& name : names) folder.Remove(name);
  return 0;
}
