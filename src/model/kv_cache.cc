#include "model/kv_cache.h"

namespace cambium {

KvCache::KvCache(const ModelConfig& config, DType dtype, int64_t max_slots)
    : config_(config),
      dtype_(dtype),
      max_pages_(max_slots / KvLayer::kPageSlots + (max_slots % KvLayer::kPageSlots != 0)),
      page_bytes_(KvLayer::PageBytes(dtype, static_cast<int>(config.kv_heads), static_cast<int>(config.head_dim))),
      memory_(CheckedBytes({config.layers, max_pages_, page_bytes_})) {}

int KvCache::NewSequence() {
  if (!free_sequences_.empty()) {
    const int id = free_sequences_.back();
    free_sequences_.pop_back();
    return id;
  }
  sequences_.emplace_back();
  return static_cast<int>(sequences_.size()) - 1;
}

void KvCache::Free(int id) {
  Truncate(id, 0);
  free_sequences_.push_back(id);
}

void KvCache::Reserve(int id, int64_t slots) {
  Sequence& s = sequence(id);
  while (static_cast<int64_t>(s.pages.size()) * KvLayer::kPageSlots < slots) {
    if (!free_pages_.empty()) {
      s.pages.push_back(free_pages_.back());
      free_pages_.pop_back();
    } else if (next_page_ < max_pages_) {
      s.pages.push_back(static_cast<int32_t>(next_page_++));
    } else {
      Fail(ErrorCode::kResource, "KV cache is full: ", slots, " slots wanted by one sequence, ", max_slots(),
           " in all; raise -c");
    }
  }
}

void KvCache::Truncate(int id, int64_t length) {
  Sequence& s = sequence(id);
  s.length = length;
  const size_t keep = static_cast<size_t>((length + KvLayer::kPageSlots - 1) / KvLayer::kPageSlots);
  while (s.pages.size() > keep) {
    free_pages_.push_back(s.pages.back());
    s.pages.pop_back();
  }
}

void KvCache::Commit(int id, const std::vector<int32_t>& path) {
  Sequence& s = sequence(id);
  for (size_t i = 0; i < path.size(); ++i) {
    const int64_t from = s.length + path[i], to = s.length + static_cast<int64_t>(i);
    if (from == to) continue;
    for (int64_t l = 0; l < config_.layers; ++l) MoveKv(layer(l), s.pages, from, to);
  }
  s.length += static_cast<int64_t>(path.size());
}

KvLayer KvCache::layer(int64_t index) const {
  return {memory_.as<char>() + index * page_bytes_, dtype_, static_cast<int>(config_.kv_heads),
          static_cast<int>(config_.head_dim), config_.layers * page_bytes_};
}

}  // namespace cambium
