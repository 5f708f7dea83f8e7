#include "model/transformer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "model/block.h"

namespace cambium {
namespace {

OwnedTensor CopyOf(const std::vector<float>& values) {
  if (values.empty()) return {};
  OwnedTensor copy({static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), copy.view.f32());
  return copy;
}

bool SameGrafts(std::span<Graft* const> a, std::span<Graft* const> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

// Where a pass without a cache keeps its one layer of keys and values: each segment has pages of its own, which begin
// with the slots of its own prefix graft, if it carries one.
void PlanTrainingPages(BlockRun& run) {
  std::vector<int64_t> first_page, prefix;
  int64_t pages = 0;
  for (const Pass::Segment& segment : run.pass.segments) {
    prefix.push_back(0);
    for (Graft* graft : segment.grafts) {
      if (graft->prefix_length() == 0) continue;
      Check(run.prefix_graft == nullptr || run.prefix_graft == graft, "one prefix graft per training pass");
      run.prefix_graft = graft;
      run.prefix_length = prefix.back() = graft->prefix_length();
    }
    first_page.push_back(pages);
    pages += (prefix.back() + segment.count + KvLayer::kPageSlots - 1) / KvLayer::kPageSlots;
  }
  run.training_pages.resize(static_cast<size_t>(pages));
  std::iota(run.training_pages.begin(), run.training_pages.end(), 0);
  for (size_t i = 0; i < run.pass.segments.size(); ++i) {
    const Pass::Segment& segment = run.pass.segments[i];
    run.segments.push_back({std::span(run.training_pages).subspan(static_cast<size_t>(first_page[i])),
                            prefix[i], segment.begin, segment.count, segment.parents});
  }
}

// Whether the graft ranges of a serving pass may run side by side, each on one thread.
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

BlockRun PlanRun(const ModelConfig& config, ThreadPool& pool, Workspace& workspace, Pass& pass) {
  BlockRun run(config, pool, workspace, pass);
  if (pass.kv != nullptr) GrowAll(pass);
  for (const Pass::Segment& segment : pass.segments) {
    if (!segment.grafts.empty()) {
      if (!run.graft_ranges.empty() && run.graft_ranges.back().begin + run.graft_ranges.back().count == segment.begin &&
          SameGrafts(run.graft_ranges.back().grafts, segment.grafts)) {
        run.graft_ranges.back().count += segment.count;
      } else {
        run.graft_ranges.push_back({segment.begin, segment.count, segment.grafts});
      }
    }
  }
  if (pass.kv == nullptr) PlanTrainingPages(run);
  for (const Pass::Segment& s : pass.segments) {
    if (pass.kv != nullptr) run.segments.push_back(pass.kv->Segment(s.sequence, s.past, s.begin, s.count, s.parents));
  }
  return run;
}

// Lets grafts act on the logits: on each run of wanted rows that lies in one of their ranges.
void AtHead(BlockRun& run, Pass& pass, Tensor selected) {
  for (const BlockRun::GraftRange& range : run.graft_ranges) {
    const auto inside = [&](int32_t row) { return row >= range.begin && row < range.begin + range.count; };
    for (Graft* graft : range.grafts) {
      if (!graft->ActsAtHead()) continue;
      for (auto begin = pass.logit_rows.begin(); begin != pass.logit_rows.end();) {
        begin = std::find_if(begin, pass.logit_rows.end(), inside);
        const auto end = std::find_if_not(begin, pass.logit_rows.end(), inside);
        if (begin == end) break;
        const Workspace::Mark mark = run.workspace.GetMark();
        const int64_t first = begin - pass.logit_rows.begin();
        graft->AtHead(run.context(), selected.Rows(first, end - begin), pass.result.logits.Rows(first, end - begin));
        run.workspace.Release(mark);
        begin = end;
      }
    }
  }
}

}  // namespace

Transformer::Transformer(BaseModel& base) : Transformer(std::shared_ptr<BaseModel>(std::shared_ptr<void>(), &base)) {}

Transformer::Transformer(std::unique_ptr<ModelWeights> weights, ThreadPool& pool)
    : Transformer(std::make_shared<BaseModel>(std::move(weights), pool)) {}

Transformer::Transformer(std::shared_ptr<BaseModel> base)
    : base_(std::move(base)),
      inv_freq_(CopyOf(config().inv_freq)),
      inv_freq_sliding_(CopyOf(config().inv_freq_sliding)) {}

Transformer::~Transformer() = default;

void Transformer::FinalNorm(Tensor x, Tensor y) {
  const NormWeights& norm = weights().final_norm;
  if (config().norm == ModelConfig::Norm::kRms) {
    RmsNorm(pool(), x, norm.gain.view, config().norm_eps, y);
  } else {
    LayerNorm(pool(), x, norm.gain.view, norm.bias.view, config().norm_eps, y);
  }
}

void Transformer::Head(Compute compute, Tensor hidden, Tensor logits) {
  const Product product[] = {{&weights().head(), logits, nullptr}};
  MatMul(pool(), workspace_, compute, hidden, product);
}

void Transformer::Forward(Pass& pass) {
  const ModelConfig& c = config();
  const int64_t rows = pass.rows();
  Check(rows > 0 && !pass.segments.empty(), "a pass has rows");
  workspace_.Reset();
  run_ = nullptr;  // it refers to the last pass, whose owner may be gone
  auto planned = std::make_unique<BlockRun>(PlanRun(c, pool(), workspace_, pass));
  BlockRun& run = *planned;
  if (RangesApart(run)) {
    if (range_threads_ == nullptr) range_threads_ = std::make_unique<RangeThreads>();
    range_threads_->workspaces.resize(static_cast<size_t>(pool().threads()));
    for (Workspace& workspace : range_threads_->workspaces) workspace.Reset();
    run.range_threads = range_threads_.get();
  }
  if (pass.kv == nullptr) {
    const size_t bytes = CheckedBytes(
        {static_cast<int64_t>(run.training_pages.size()),
         KvLayer::PageBytes(DType::kF32, static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim))});
    if (training_kv_.bytes() < bytes) training_kv_ = Buffer(bytes);
    run.training_kv = training_kv_.data();
  }
  run.inv_freq = inv_freq_.view;
  run.inv_freq_sliding = inv_freq_sliding_.view;
  run.x = workspace_.New({rows, c.hidden});
  pass.result.captured.assign(pass.capture.size(), Tensor());

  if (weights().embedding) base_->Embed(pass.tokens, pass.positions, run.x);  // else a graft gives the input
  for (const BlockRun::GraftRange& range : run.graft_ranges) {
    const auto tokens =
        std::span(pass.tokens).subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.count));
    for (Graft* graft : range.grafts) graft->AtEmbedding(run.context(), tokens, run.x.Rows(range.begin, range.count));
  }
  const int64_t layers = pass.layers < 0 ? c.layers : std::min(pass.layers, c.layers);
  const bool checkpoint = pass.training.tape != nullptr && pass.training.checkpoint;
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (checkpoint) pass.training.tape->PushExact(pool(), run.x);
    run.tape = checkpoint ? nullptr : pass.training.tape;
    Block(run, weights().blocks[static_cast<size_t>(layer)], static_cast<int>(layer));
    for (size_t i = 0; i < pass.capture.size(); ++i) {
      if (pass.capture[i] != layer) continue;
      pass.result.captured[i] = workspace_.New({rows, c.hidden});
      Convert(pool(), run.x, pass.result.captured[i]);
    }
  }
  run.tape = pass.training.tape;
  if (pass.training.tape != nullptr) pass.training.tape->PushExact(pool(), run.x);
  pass.result.hidden = workspace_.New({rows, c.hidden});
  FinalNorm(run.x, pass.result.hidden);
  AtNorm(run, static_cast<int>(c.layers), NormKind::kFinal, pass.result.hidden);
  if (c.logit_scale != 1) Scale(pool(), c.logit_scale, pass.result.hidden);

  pass.result.logits = Tensor();
  if (!pass.logit_rows.empty()) Logits(run);
  if (pass.training.tape != nullptr) run_ = std::move(planned);
}

void Transformer::Logits(BlockRun& run) {
  Pass& pass = run.pass;
  const ModelConfig& c = config();
  const int64_t wanted = static_cast<int64_t>(pass.logit_rows.size());
  Tensor selected = pass.result.hidden;
  if (wanted != pass.rows()) {
    selected = workspace_.New({wanted, c.hidden});
    for (int64_t i = 0; i < wanted; ++i) {
      std::memcpy(selected.row(i), pass.result.hidden.row(pass.logit_rows[static_cast<size_t>(i)]),
                  static_cast<size_t>(c.hidden) * sizeof(float));
    }
  }
  pass.result.logits = workspace_.New({wanted, c.vocab});
  Head(pass.compute, selected, pass.result.logits);
  AtHead(run, pass, selected);
  if (c.logit_softcap > 0) SoftCap(pool(), c.logit_softcap, pass.result.logits);
}

int64_t Transformer::BeginSequence(KvCache& kv, KvCache::Id sequence, std::span<Graft* const> grafts) {
  kv.Truncate(sequence, 0);
  int64_t length = 0;
  for (Graft* graft : grafts) {
    const int64_t count = graft->prefix_length();
    if (count == 0) continue;
    kv.Grow(sequence, length + count);
    const AttentionSegment slots = kv.Segment(sequence, length, 0, count);
    for (int64_t layer = 0; layer < config().layers; ++layer) {
      const Graft::Kv rows = graft->PrefixKv(static_cast<int>(layer));
      StoreKv(pool(), kv.layer(layer), {&slots, 1}, rows.k, rows.v);
    }
    length += count;
    kv.Commit(sequence, count);
  }
  Pass pass;
  std::vector<int32_t> rows;
  for (Graft* graft : grafts) {
    for (int64_t i = 0; i < graft->prompt_length(); ++i) rows.push_back(static_cast<int32_t>(-1 - i));
  }
  if (rows.empty()) return length;
  pass.compute = Compute::kF32;  // as it was trained, whatever serves the text
  pass.kv = &kv;
  pass.Append(sequence, length, rows).grafts = grafts;
  Forward(pass);
  CommitAll(pass);
  return kv.length(sequence);
}

void Transformer::Backward(Pass& pass, Tensor dhidden) {
  const ModelConfig& c = config();
  Check(run_ != nullptr && &run_->pass == &pass && pass.training.tape != nullptr, "Backward follows Forward of the same pass");
  BlockRun& run = *run_;
  Tensor x = pass.training.tape->PopF32(pool(), workspace_);
  Tensor dx = workspace_.New({dhidden.rows(), c.hidden});
  const Graft::NormGradient grads = run.NormGradientOf(static_cast<int>(c.layers), NormKind::kFinal);
  if (c.logit_scale != 1) {
    const Tensor scaled = workspace_.New({dhidden.rows(), c.hidden});
    Convert(pool(), dhidden, scaled);
    Scale(pool(), c.logit_scale, scaled);
    dhidden = scaled;
  }
  FinalNormBackward(dhidden, x, dx, grads.dgain, grads.dbias);

  int64_t lowest = c.layers;
  for (const BlockRun::GraftRange& range : run.graft_ranges) {
    for (Graft* graft : range.grafts) lowest = std::min(lowest, graft->LowestLayer());
  }
  const int64_t layers = pass.layers < 0 ? c.layers : std::min(pass.layers, c.layers);
  for (int64_t layer = layers - 1; layer >= lowest; --layer) {
    const BlockWeights& block = weights().blocks[static_cast<size_t>(layer)];
    for (size_t i = 0; i < pass.training.dcaptured.size(); ++i) {
      if (pass.capture[i] == layer) Add(pool(), pass.training.dcaptured[i], dx);
    }
    if (pass.training.checkpoint) {
      run.x = pass.training.tape->Pop();
      const Workspace::Mark mark = workspace_.GetMark();
      Tensor copy = workspace_.New({run.x.rows(), c.hidden});
      Convert(pool(), run.x, copy);
      run.x = copy;
      Block(run, block, static_cast<int>(layer));
      BlockBackward(run, block, static_cast<int>(layer), dx);
      workspace_.Release(mark);
    } else {
      BlockBackward(run, block, static_cast<int>(layer), dx);
    }
  }
  if (lowest == 0) {
    for (auto range = run.graft_ranges.rbegin(); range != run.graft_ranges.rend(); ++range) {
      const size_t begin = static_cast<size_t>(range->begin), count = static_cast<size_t>(range->count);
      const auto tokens = std::span(pass.tokens).subspan(begin, count);
      const Tensor rows = dx.Rows(range->begin, range->count);
      for (auto graft = range->grafts.rbegin(); graft != range->grafts.rend(); ++graft) {
        (*graft)->AtEmbeddingBackward(run.context(), tokens, rows);
        const Tensor dembedding = (*graft)->EmbeddingGradient();
        if (!dembedding) continue;
        base_->EmbedBackward(tokens, std::span(pass.positions).subspan(begin, count), rows, dembedding,
                      (*graft)->PositionsGradient());
      }
    }
  }
  pass.training.tape->Clear();
  run_ = nullptr;
}

void Transformer::FinalNormBackward(Tensor dy, Tensor x, Tensor dx, Tensor dgain, Tensor dbias) {
  const NormWeights& norm = weights().final_norm;
  const Workspace::Mark mark = workspace_.GetMark();
  Tensor y = workspace_.New({x.rows(), x.columns()});
  Tensor mean = workspace_.New({x.rows()}), inv = workspace_.New({x.rows()});
  if (config().norm == ModelConfig::Norm::kRms) {
    RmsNorm(pool(), x, norm.gain.view, config().norm_eps, y, inv);
    RmsNormBackward(pool(), dy, x, norm.gain.view, inv, dx, dgain);
  } else {
    LayerNorm(pool(), x, norm.gain.view, norm.bias.view, config().norm_eps, y, mean, inv);
    LayerNormBackward(pool(), dy, x, norm.gain.view, mean, inv, dx, dgain, dbias);
  }
  workspace_.Release(mark);
}

void CommitAll(Pass& pass) {
  for (const Pass::Segment& segment : pass.segments) {
    Check(segment.parents.empty(), "CommitAll takes chains");
    pass.kv->Commit(segment.sequence, segment.count);
  }
}

}  // namespace cambium
