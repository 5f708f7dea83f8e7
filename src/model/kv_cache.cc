#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "cambium/error.h"

namespace cambium {
namespace {

int64_t PagesFor(int64_t slots) { return slots / KvCache::kPageSlots + (slots % KvCache::kPageSlots != 0); }

}  // namespace

KvCache::KvCache(const ModelConfig& config, DType dtype, int64_t max_slots) : max_pages_(PagesFor(max_slots)) {
  Check(max_slots > 0, "a cache has slots");
  AddLayers(config.decoder_layers(), config.kv_heads, config.head_dim, dtype);
  if (max_pages_ >= int64_t{1} << 31) Fail(ErrorCode::kResource, "a KV cache of ", max_slots, " slots is too large");
  uses_.assign(static_cast<size_t>(max_pages_), 0);
  node_of_.assign(static_cast<size_t>(max_pages_), -1);
}

int64_t KvCache::AddLayers(int64_t count, int64_t kv_heads, int64_t head_dim, DType dtype) {
  const int heads = static_cast<int>(kv_heads), dim = static_cast<int>(head_dim);
  const int64_t page_bytes = KvLayer::PageBytes(dtype, heads, dim);
  Group added = {Buffer(CheckedBytes({count, max_pages_, page_bytes})), count, page_bytes, heads, dim, dtype};
  int64_t first = 0;
  for (Group& group : groups_) {
    if (!group.memory && group.layers == count) {
      group = std::move(added);
      return first;
    }
    first += group.layers;
  }
  groups_.push_back(std::move(added));
  return first;
}

void KvCache::DropLayers(int64_t first) {
  int64_t at = 0;
  for (Group& group : groups_) {
    if (at == first) group.memory = Buffer();
    at += group.layers;
  }
}

KvLayer KvCache::layer(int64_t index) const {
  for (const Group& group : groups_) {
    if (index < group.layers) {
      return {group.memory.as<char>() + index * group.page_bytes, group.dtype, group.kv_heads, group.head_dim,
              group.layers * group.page_bytes};
    }
    index -= group.layers;
  }
  Check(false, "a layer of the cache exists");
  return {};
}

int64_t KvCache::bytes() const {
  int64_t bytes = 0;
  for (const Group& group : groups_) bytes += static_cast<int64_t>(group.memory.bytes());
  return bytes;
}

const KvCache::Sequence& KvCache::At(Id id) const {
  Check(id >= 0 && static_cast<size_t>(id) < sequences_.size() && sequences_[static_cast<size_t>(id)].open,
        "a sequence of the cache is open");
  return sequences_[static_cast<size_t>(id)];
}
KvCache::Sequence& KvCache::At(Id id) { return const_cast<Sequence&>(std::as_const(*this).At(id)); }

KvCache::Id KvCache::Open() {
  Id id = static_cast<Id>(sequences_.size());
  if (free_sequences_.empty()) {
    sequences_.emplace_back();
  } else {
    id = free_sequences_.back();
    free_sequences_.pop_back();
  }
  sequences_[static_cast<size_t>(id)].open = true;
  return id;
}

void KvCache::Close(Id id) {
  Truncate(id, 0);
  At(id) = Sequence();
  free_sequences_.push_back(id);
}

KvCache::Id KvCache::Fork(Id from, int64_t length) {
  Check(length >= 0 && length <= this->length(from), "a fork shares committed slots");
  const Id id = Open();
  Sequence& s = At(id);
  const Sequence& parent = At(from);
  s.pages.assign(parent.pages.begin(), parent.pages.begin() + PagesFor(length));
  s.length = length;
  s.key = parent.key;
  s.path.assign(parent.path.begin(),
                parent.path.begin() + std::min<int64_t>(std::ssize(parent.path), length / kPageSlots));
  for (const int32_t page : s.pages) ++uses_[static_cast<size_t>(page)];
  return id;
}

int64_t KvCache::available() const { return std::ssize(free_pages_) + max_pages_ - next_page_ + idle_; }

bool KvCache::TryGrow(Id id, int64_t slots) {
  Sequence& s = At(id);
  // Pages that hold slots beyond the committed ones and that others see.
  const int64_t first = s.length / kPageSlots, held = std::ssize(s.pages);
  int64_t wanted = std::max<int64_t>(0, PagesFor(slots) - held);
  for (int64_t i = first; i < held; ++i) wanted += uses_[static_cast<size_t>(s.pages[static_cast<size_t>(i)])] > 1;
  if (wanted > available()) return false;
  for (int64_t i = first; i < held; ++i) {
    int32_t& page = s.pages[static_cast<size_t>(i)];
    if (uses_[static_cast<size_t>(page)] == 1) continue;
    const int32_t own = TakePage();
    if (i * kPageSlots < s.length) CopyPage(page, own);
    ReleasePage(std::exchange(page, own));
  }
  while (std::ssize(s.pages) < PagesFor(slots)) s.pages.push_back(TakePage());
  return true;
}

void KvCache::Grow(Id id, int64_t slots) {
  if (TryGrow(id, slots)) return;
  Fail(ErrorCode::kResource, "KV cache is full: ", slots, " slots wanted by one sequence, ", max_slots(),
       " in all, of which ", available() * kPageSlots, " are free; raise -c");
}

AttentionSegment KvCache::Segment(Id id, int64_t past, int64_t begin, int64_t count,
                                  std::span<const int32_t> parents) const {
  const Sequence& s = At(id);
  Check(past >= 0 && past + count <= std::ssize(s.pages) * kPageSlots, "a segment's slots were grown");
  return {s.pages, past, begin, count, parents};
}

void KvCache::Commit(Id id, std::span<const int32_t> path) {
  Sequence& s = At(id);
  const Group& own = groups_.front();
  for (size_t i = 0; i < path.size(); ++i) {
    const int64_t from = s.length + path[i], to = s.length + static_cast<int64_t>(i);
    if (from == to) continue;
    for (int64_t l = 0; l < own.layers; ++l) MoveKv(layer(l), s.pages, from, to);
  }
  Commit(id, std::ssize(path));
}

void KvCache::Commit(Id id, int64_t count) {
  Sequence& s = At(id);
  Check(count >= 0 && s.length + count <= std::ssize(s.pages) * kPageSlots, "committed slots were grown");
  s.length += count;
}

void KvCache::Truncate(Id id, int64_t length) {
  Sequence& s = At(id);
  Check(length >= 0 && length <= s.length, "a sequence is cut within its committed slots");
  s.length = length;
  while (std::ssize(s.pages) > PagesFor(length)) {
    ReleasePage(s.pages.back());
    s.pages.pop_back();
  }
  if (std::ssize(s.path) > length / kPageSlots) s.path.resize(static_cast<size_t>(length / kPageSlots));
}

int32_t KvCache::TakePage() {
  int32_t page;
  if (!free_pages_.empty()) {
    page = free_pages_.back();
    free_pages_.pop_back();
  } else if (next_page_ < max_pages_) {
    page = static_cast<int32_t>(next_page_++);
  } else {
    Check(!evictable_.empty(), "a page was counted before it is taken");
    ++evicted_;
    RemoveNode(evictable_.begin()->second);
    page = free_pages_.back();
    free_pages_.pop_back();
  }
  uses_[static_cast<size_t>(page)] = 1;
  return page;
}

void KvCache::ReleasePage(int32_t page) {
  const int32_t left = --uses_[static_cast<size_t>(page)];
  const int32_t node = node_of_[static_cast<size_t>(page)];
  if (left == 0) free_pages_.push_back(page);
  if (left == 1 && node >= 0) {
    ++idle_;
    Enlist(node);
  }
}

void KvCache::CopyPage(int32_t from, int32_t to) {
  for (const Group& group : groups_) {
    if (!group.memory) continue;
    const size_t bytes = static_cast<size_t>(group.layers * group.page_bytes);
    char* const memory = group.memory.as<char>();
    std::memcpy(memory + static_cast<size_t>(to) * bytes, memory + static_cast<size_t>(from) * bytes, bytes);
  }
}

KvCache::Stats KvCache::stats() const {
  Stats stats;
  stats.pages = max_pages_;
  stats.known = idle_;
  stats.used = next_page_ - std::ssize(free_pages_) - idle_;
  stats.sequences = std::ssize(sequences_) - std::ssize(free_sequences_);
  stats.evicted = evicted_;
  for (int64_t page = 0; page < next_page_; ++page) {
    const size_t p = static_cast<size_t>(page);
    stats.shared += uses_[p] - (node_of_[p] >= 0) > 1;
  }
  return stats;
}

}  // namespace cambium
