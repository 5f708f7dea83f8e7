#include "model/transformer.h"

#include <algorithm>
#include <cstring>

#include "model/block_parts.h"
#include "model/plan_run.h"

namespace cambium {
namespace {

OwnedTensor CopyOf(const std::vector<float>& values) {
  if (values.empty()) return {};
  OwnedTensor copy({static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), copy.view.f32());
  return copy;
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
  if (!norm.gain.view) {
    Convert(pool(), x, y);
  } else if (config().norm == ModelConfig::Norm::kRms) {
    RmsNorm(pool(), x, norm.gain.view, config().norm_eps, y);
  } else {
    LayerNorm(pool(), x, norm.gain.view, norm.bias.view, config().norm_eps, y);
  }
}

void Transformer::Head(Compute compute, Tensor hidden, Tensor logits) {
  const Product product[] = {{&weights().head(), logits, weights().logit_bias.view.f32()}};
  MatMul(pool(), workspace_, compute, hidden, product);
}

void Transformer::Forward(Pass& pass) {
  Check(pass.encoder || pass.source != nullptr || pass.memory != nullptr || !config().has_encoder(),
        "a decoder with an encoder has something to read");
  workspace_.Reset();
  run_.reset();  // they refer to the last pass, whose owner may be gone
  source_run_.reset();
  std::unique_ptr<BlockRun> source;
  if (pass.source != nullptr) {
    Check(pass.source->encoder, "a source is the encoder's");
    pass.source->compute = pass.compute;
    pass.source->training = pass.training;
    source = RunStack(*pass.source, nullptr);
  }
  std::unique_ptr<BlockRun> run = RunStack(pass, source.get());
  if (source != nullptr) source->training_kv = run->training_kv;  // the larger one
  pass.result.logits = Tensor();
  if (!pass.logit_rows.empty()) Logits(*run);
  if (pass.encoder && pass.memory != nullptr) KeepMemory(*run);
  if (pass.training.tape == nullptr) return;
  run_ = std::move(run);
  source_run_ = std::move(source);
}

std::unique_ptr<BlockRun> Transformer::RunStack(Pass& pass, BlockRun* source) {
  const ModelConfig& c = config();
  const int64_t rows = pass.rows();
  Check(rows > 0 && !pass.segments.empty(), "a pass has rows");
  auto planned = std::make_unique<BlockRun>(PlanRun(c, pool(), workspace_, pass, source));
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
  Embed(run);
  pass.result.captured.assign(pass.capture.size(), Tensor());
  const int64_t last = LastLayer(pass);
  const bool checkpoint = pass.training.tape != nullptr && pass.training.checkpoint;
  for (int64_t layer = run.first_layer; layer < last; ++layer) {
    if (checkpoint) pass.training.tape->PushExact(pool(), run.x);
    run.tape = checkpoint ? nullptr : pass.training.tape;
    if (run.source != nullptr) run.source->tape = run.tape;
    Block(run, weights().blocks[static_cast<size_t>(layer)], static_cast<int>(layer));
    for (size_t i = 0; i < pass.capture.size(); ++i) {
      if (pass.capture[i] != layer) continue;
      pass.result.captured[i] = workspace_.New({rows, c.hidden});
      Convert(pool(), run.x, pass.result.captured[i]);
    }
  }
  run.tape = pass.training.tape;
  if (run.source != nullptr) run.source->tape = run.tape;
  if (pass.training.tape != nullptr) pass.training.tape->PushExact(pool(), run.x);
  pass.result.hidden = workspace_.New({rows, c.hidden});
  if (pass.encoder && c.final_norm) {
    ApplyNorm(run, weights().encoder.final_norm, run.x, pass.result.hidden);
  } else {
    FinalNorm(run.x, pass.result.hidden);
  }
  AtNorm(run, FinalNormAt(pass), NormKind::kFinal, pass.result.hidden);
  if (!pass.encoder && c.logit_scale != 1) Scale(pool(), c.logit_scale, pass.result.hidden);
  run.memory = pass.result.hidden;
  return planned;
}

// Beyond the last layer of the pass's stack.
int64_t Transformer::LastLayer(const Pass& pass) const {
  const ModelConfig& c = config();
  if (pass.encoder) return c.encoder_layers;
  return pass.layers < 0 ? c.layers : std::min(pass.layers, c.layers);
}

// The layer by which grafts know the norm behind the pass's stack.
int Transformer::FinalNormAt(const Pass& pass) const {
  return static_cast<int>(pass.encoder ? config().encoder_layers : config().layers);
}

void Transformer::Embed(BlockRun& run) {
  Pass& pass = run.pass;
  run.x = workspace_.New({pass.rows(), config().hidden});
  if (weights().embedding) base_->Embed(pass.tokens, pass.positions, run.x, run.encoder);  // else a graft gives the input
  for (const BlockRun::GraftRange& range : run.graft_ranges) {
    const auto tokens =
        std::span(pass.tokens).subspan(static_cast<size_t>(range.begin), static_cast<size_t>(range.count));
    for (Graft* graft : range.grafts) graft->AtEmbedding(run.context(), tokens, run.x.Rows(range.begin, range.count));
  }
  if (!config().embedding_norm) return;
  if (run.tape != nullptr) run.tape->PushExact(pool(), run.x);
  ApplyNorm(run, EmbeddingNorm(run.encoder), run.x, run.x);
  AtNorm(run, static_cast<int>(run.first_layer), NormKind::kEmbedding, run.x);
}

const NormWeights& Transformer::EmbeddingNorm(bool encoder) const {
  return encoder ? weights().encoder.embedding_norm : weights().embedding_norm;
}

// Puts what the decoder's layers see of each source into its sequence of the pass's memory, behind its prefix.
void Transformer::KeepMemory(BlockRun& run) {
  const ModelConfig& c = config();
  KvCache& memory = *run.pass.memory;
  for (const Pass::Segment& segment : run.pass.segments) {
    int64_t before = 0;
    for (const Graft* graft : segment.grafts) before += graft->cross_prefix_length();
    memory.Grow(segment.memory, before + segment.count);
  }
  for (int64_t layer = c.encoder_layers; layer < c.layers; ++layer) {
    const Workspace::Mark mark = workspace_.GetMark();
    const Tensor k = workspace_.New({run.memory.rows(), c.kv_heads * c.head_dim});
    const Tensor v = workspace_.New({run.memory.rows(), c.kv_heads * c.head_dim});
    MemoryKv(run, weights().blocks[static_cast<size_t>(layer)], static_cast<int>(layer), k, v);
    const KvLayer pages = memory.layer(layer - c.encoder_layers);
    for (const Pass::Segment& segment : run.pass.segments) {
      int64_t past = 0;
      for (Graft* graft : segment.grafts) {
        const int64_t count = graft->cross_prefix_length();
        if (count == 0) continue;
        const AttentionSegment slots = memory.Segment(segment.memory, past, 0, count);
        const Graft::Kv prefix = graft->CrossPrefixKv(static_cast<int>(layer));
        StoreKv(pool(), pages, {&slots, 1}, prefix.k, prefix.v);
        past += count;
      }
      const AttentionSegment slots = memory.Segment(segment.memory, past, segment.begin, segment.count);
      StoreKv(pool(), pages, {&slots, 1}, k, v);
      if (layer + 1 == c.layers) memory.Commit(segment.memory, past + segment.count);
    }
    workspace_.Release(mark);
  }
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
    const int64_t first = config().encoder_layers;
    for (int64_t layer = first; layer < config().layers; ++layer) {
      const Graft::Kv rows = graft->PrefixKv(static_cast<int>(layer));
      StoreKv(pool(), kv.layer(layer - first), {&slots, 1}, rows.k, rows.v);
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
  Check(run_ != nullptr && &run_->pass == &pass && pass.training.tape != nullptr, "Backward follows Forward of the same pass");
  int64_t lowest = config().layers;
  for (const BlockRun* run : {run_.get(), source_run_.get()}) {
    if (run == nullptr) continue;
    for (const BlockRun::GraftRange& range : run->graft_ranges) {
      for (Graft* graft : range.grafts) lowest = std::min(lowest, graft->LowestLayer());
    }
  }
  if (source_run_ != nullptr) {
    source_run_->dmemory = workspace_.New({source_run_->memory.rows(), config().hidden});
    Scale(pool(), 0.0f, source_run_->dmemory);
  }
  BackwardStack(*run_, dhidden, lowest);
  if (source_run_ != nullptr && lowest < config().encoder_layers) {
    pass.source->training = pass.training;
    BackwardStack(*source_run_, source_run_->dmemory, lowest);
  }
  pass.training.tape->Clear();
  run_.reset();
  source_run_.reset();
}

void Transformer::BackwardStack(BlockRun& run, Tensor dhidden, int64_t lowest) {
  const ModelConfig& c = config();
  Pass& pass = run.pass;
  Tape& tape = *pass.training.tape;
  Tensor x = tape.PopF32(pool(), workspace_);
  Tensor dx = workspace_.New({dhidden.rows(), c.hidden});
  const int64_t last = LastLayer(pass);
  if (run.encoder && c.final_norm) {
    NormBackward(run, weights().encoder.final_norm, FinalNormAt(pass), NormKind::kFinal, dhidden, x, dx);
  } else {
    const Graft::NormGradient grads = run.NormGradientOf(FinalNormAt(pass), NormKind::kFinal);
    if (!run.encoder && c.logit_scale != 1) {
      const Tensor scaled = workspace_.New({dhidden.rows(), c.hidden});
      Convert(pool(), dhidden, scaled);
      Scale(pool(), c.logit_scale, scaled);
      dhidden = scaled;
    }
    FinalNormBackward(dhidden, x, dx, grads.dgain, grads.dbias);
  }
  for (int64_t layer = last - 1; layer >= std::max(lowest, run.first_layer); --layer) {
    const BlockWeights& block = weights().blocks[static_cast<size_t>(layer)];
    for (size_t i = 0; i < pass.training.dcaptured.size(); ++i) {
      if (pass.capture[i] == layer) Add(pool(), pass.training.dcaptured[i], dx);
    }
    if (pass.training.checkpoint) {
      run.x = tape.Pop();
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
  if (lowest == 0 || lowest < run.first_layer) EmbedBackward(run, dx, lowest == 0);
}

// Of what stands below the stack's first block; `wanted`: there is a gradient to keep, else the tape is only unwound.
void Transformer::EmbedBackward(BlockRun& run, Tensor dx, bool wanted) {
  const Pass& pass = run.pass;
  if (config().embedding_norm) {
    const Tensor x = pass.training.tape->PopF32(pool(), workspace_);
    Tensor d = workspace_.New({dx.rows(), dx.columns()});
    NormBackward(run, EmbeddingNorm(run.encoder), static_cast<int>(run.first_layer), NormKind::kEmbedding, dx, x, d);
    dx = d;
  }
  if (!wanted) return;
  for (auto range = run.graft_ranges.rbegin(); range != run.graft_ranges.rend(); ++range) {
    const size_t begin = static_cast<size_t>(range->begin), count = static_cast<size_t>(range->count);
    const auto tokens = std::span(pass.tokens).subspan(begin, count);
    const Tensor rows = dx.Rows(range->begin, range->count);
    for (auto graft = range->grafts.rbegin(); graft != range->grafts.rend(); ++graft) {
      (*graft)->AtEmbeddingBackward(run.context(), tokens, rows);
      const Tensor dembedding = (*graft)->EmbeddingGradient();
      if (!dembedding) continue;
      base_->EmbedBackward(tokens, std::span(pass.positions).subspan(begin, count), rows, dembedding,
                           run.encoder ? (*graft)->EncoderPositionsGradient() : (*graft)->PositionsGradient());
    }
  }
}

void Transformer::FinalNormBackward(Tensor dy, Tensor x, Tensor dx, Tensor dgain, Tensor dbias) {
  const NormWeights& norm = weights().final_norm;
  if (!norm.gain.view) return Convert(pool(), dy, dx);
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
