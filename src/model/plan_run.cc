#include "model/plan_run.h"

#include <algorithm>
#include <numeric>

namespace cambium {
namespace {

bool SameGrafts(std::span<Graft* const> a, std::span<Graft* const> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// The slots that a prefix graft fills before a segment's rows, or before what they see of their source.
int64_t PrefixOf(BlockRun& run, const Pass::Segment& segment, bool cross) {
  int64_t length = 0;
  for (Graft* graft : segment.grafts) {
    const int64_t own = cross         ? graft->cross_prefix_length()
                        : run.encoder ? graft->encoder_prefix_length()
                                      : graft->prefix_length();
    if (own == 0) continue;
    Check(run.prefix_graft == nullptr || run.prefix_graft == graft, "one prefix graft per pass without a cache");
    run.prefix_graft = graft;
    length = own;
  }
  return length;
}

// Where a pass without a cache keeps its one layer of keys and values: each segment has pages of its own, which begin
// with the slots of its own prefix graft, if it carries one; further pages for what it sees of its source.
void PlanOwnPages(BlockRun& run) {
  struct Span {
    int64_t first_page, prefix;
  };
  std::vector<Span> own, cross;
  int64_t pages = 0;
  const auto take = [&](int64_t prefix, int64_t rows) {
    const Span span{pages, prefix};
    pages += (prefix + rows + KvLayer::kPageSlots - 1) / KvLayer::kPageSlots;
    return span;
  };
  for (size_t i = 0; i < run.pass.segments.size(); ++i) {
    const Pass::Segment& segment = run.pass.segments[i];
    own.push_back(take(PrefixOf(run, segment, false), segment.count));
    run.prefix_length = std::max(run.prefix_length, own.back().prefix);
    if (run.source == nullptr) continue;
    cross.push_back(take(PrefixOf(run, segment, true), run.source->segments[i].count));
    run.cross_prefix_length = std::max(run.cross_prefix_length, cross.back().prefix);
  }
  run.training_pages.resize(static_cast<size_t>(pages));
  std::iota(run.training_pages.begin(), run.training_pages.end(), 0);
  const auto pages_from = [&](const Span& span) {
    return std::span<const int32_t>(run.training_pages).subspan(static_cast<size_t>(span.first_page));
  };
  for (size_t i = 0; i < run.pass.segments.size(); ++i) {
    const Pass::Segment& s = run.pass.segments[i];
    AttentionSegment segment = {pages_from(own[i]), own[i].prefix, s.begin, s.count, s.parents};
    if (run.encoder) {
      segment.memory = s.count;
      segment.memory_begin = s.begin;
    }
    run.segments.push_back(segment);
    if (run.source == nullptr) continue;
    const AttentionSegment& source = run.source->segments[i];
    run.cross_segments.push_back(
        {pages_from(cross[i]), cross[i].prefix, s.begin, s.count, {}, source.count, source.begin});
  }
}

// Makes room for every segment before any takes a view of its pages, which a growing sequence would move.
void GrowAll(const Pass& pass) {
  std::vector<KvCache::Id> sequences;
  for (const Pass::Segment& segment : pass.segments) {
    pass.kv->Grow(segment.sequence, segment.past + segment.count);
    sequences.push_back(segment.sequence);
  }
  std::ranges::sort(sequences);
  Check(std::ranges::adjacent_find(sequences) == sequences.end(), "a pass has one segment of each sequence");
}

}  // namespace

bool RangesApart(const BlockRun& run) {
  constexpr int64_t kFewRows = 16;
  if (run.tape != nullptr || run.pool.threads() == 1 || run.graft_ranges.size() < 2) return false;
  std::vector<Graft*> seen;
  for (const BlockRun::GraftRange& range : run.graft_ranges) {
    if (range.count > kFewRows) return false;
    seen.insert(seen.end(), range.grafts.begin(), range.grafts.end());
  }
  std::ranges::sort(seen);
  return std::ranges::adjacent_find(seen) == seen.end();
}

BlockRun PlanRun(const ModelConfig& config, ThreadPool& pool, Workspace& workspace, Pass& pass, BlockRun* source) {
  BlockRun run(config, pool, workspace, pass);
  run.encoder = pass.encoder;
  run.first_layer = pass.encoder ? 0 : config.encoder_layers;
  run.source = source;
  if (pass.kv != nullptr) GrowAll(pass);
  for (const Pass::Segment& segment : pass.segments) {
    if (segment.grafts.empty()) continue;
    if (!run.graft_ranges.empty() && run.graft_ranges.back().begin + run.graft_ranges.back().count == segment.begin &&
        SameGrafts(run.graft_ranges.back().grafts, segment.grafts)) {
      run.graft_ranges.back().count += segment.count;
    } else {
      run.graft_ranges.push_back({segment.begin, segment.count, segment.grafts});
    }
  }
  if (pass.kv == nullptr) {
    PlanOwnPages(run);
    return run;
  }
  for (const Pass::Segment& s : pass.segments) {
    run.segments.push_back(pass.kv->Segment(s.sequence, s.past, s.begin, s.count, s.parents));
    if (!config.has_encoder()) continue;
    const int64_t seen = pass.memory->length(s.memory);
    AttentionSegment cross = pass.memory->Segment(s.memory, seen, s.begin, 0);
    cross.past = 0;
    cross.count = s.count;
    cross.memory = seen;
    run.cross_segments.push_back(cross);
  }
  return run;
}

}  // namespace cambium
