// BART and beam search against transformers, and law 2 with ==. Goldens: tools/make_bart_golden.py.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "decode/scheduler.h"
#include "grafts/full.h"
#include "io/safetensors.h"
#include "model/load.h"
#include "model/transformer.h"
#include "train/loss_head.h"

namespace cambium {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

json ReadJson(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  return json::parse(file);
}

std::string Golden(const std::string& name) { return std::string(CAMBIUM_TEST_DIR) + "/golden/" + name; }

// A model with its caches and scheduler, in fp32.
struct Served {
  explicit Served(const std::string& path, int threads = 2)
      : pool(threads), transformer(LoadWeights(pool, path), pool), kv(transformer.config(), DType::kF32, 4096) {
    if (transformer.config().has_encoder()) {
      memory = std::make_unique<KvCache>(transformer.config(), DType::kF32, 2048);
    }
    SchedulerOptions options;
    options.compute = Compute::kF32;
    scheduler = std::make_unique<Scheduler>(transformer, kv, options, memory.get());
  }

  DecodeRequest Request(const Ids& text, int64_t max_tokens) const {
    const ModelConfig& c = transformer.config();
    DecodeRequest request;
    request.prompt = text;
    if (c.has_encoder()) {
      request.source = std::exchange(request.prompt, {c.decoder_start});
      request.forced_first = c.forced_first;
      request.forced_last = c.forced_last;
    }
    request.sampling.temperature = 0;
    request.max_tokens = max_tokens;
    request.context = std::min<int64_t>(c.context, 128);
    request.end_tokens = {2};
    return request;
  }

  ThreadPool pool;
  Transformer transformer;
  KvCache kv;
  std::unique_ptr<KvCache> memory;
  std::unique_ptr<Scheduler> scheduler;
};

// What stands behind the start of an answer in an output of transformers, without the end and what fills it up.
Ids Answer(const json& output, size_t start) {
  Ids ids = output.get<Ids>();
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(start));
  if (const auto end = std::find(ids.begin(), ids.end(), 2); end != ids.end()) ids.erase(end, ids.end());
  return ids;
}

DecodeResult Decode(Served& served, const DecodeRequest& request) { return RunToEnd(*served.scheduler, request); }

struct How {
  DecodeRequest request;
  BeamOptions beams;
};

// The settings of `generate` as ours.
How SettingsOf(const Served& served, const Ids& text, const json& settings) {
  How how{served.Request(text, settings.at("max_new_tokens").get<int64_t>()), {}};
  how.beams.count = settings.at("num_beams").get<int64_t>();
  how.beams.length_penalty = settings.value("length_penalty", 1.0f);
  const json early = settings.value("early_stopping", json(false));
  how.beams.stop = early == "never"  ? BeamOptions::Stop::kNever
                   : early == true ? BeamOptions::Stop::kEarly
                                   : BeamOptions::Stop::kHeuristic;
  how.request.sampling.no_repeat_ngram = settings.value("no_repeat_ngram_size", 0);
  how.request.sampling.repeat_penalty = settings.value("repetition_penalty", 1.0f);
  how.request.sampling.repeat_last_n = -1;
  how.request.min_tokens = settings.value("min_new_tokens", 0);
  return how;
}

void ExpectBeams(Served& served, const Ids& text, const json& golden, size_t start) {
  const How how = SettingsOf(served, text, golden.at("settings"));
  DecodeResult result;
  const std::vector<Beam> beams = served.scheduler->Search(how.request, how.beams, result);
  const std::string name = golden.at("settings").dump();
  ASSERT_EQ(beams.size(), golden["ids"].size()) << name;
  for (size_t i = 0; i < beams.size(); ++i) {
    // Where too few tokens may follow, transformers fills up with hypotheses that were never alive.
    if (golden["scores"][i].get<double>() < -1e8) continue;
    EXPECT_EQ(beams[i].tokens, Answer(golden["ids"][i], start)) << name << ", hypothesis " << i;
    EXPECT_NEAR(beams[i].score, golden["scores"][i].get<double>(), 1e-4) << name << ", hypothesis " << i;
  }
}

class Bart : public testing::TestWithParam<const char*> {
 protected:
  Bart() : served_(Golden("bart/") + GetParam()), cases_(ReadJson(Golden("bart/") + GetParam() + "/golden.json")["cases"]) {}
  Served served_;
  json cases_;
};

TEST_P(Bart, LogitsAreThoseOfTransformers) {
  for (const json& one : cases_) {
    const Ids source = one["source"].get<Ids>(), target = one["target"].get<Ids>();
    KvCache memory(served_.transformer.config(), DType::kF32, 128), kv(served_.transformer.config(), DType::kF32, 128);
    Pass encode;
    encode.compute = Compute::kF32;
    encode.encoder = true;
    encode.memory = &memory;
    encode.Append(-1, 0, source).memory = memory.Open();
    served_.transformer.Forward(encode);
    // As training runs it, and as serving does: whole, and token by token.
    const KvCache::Id sequence = kv.Open();
    const auto expect = [&](const Pass& pass, size_t first) {
      for (int64_t row = 0; row < pass.result.logits.rows(); ++row) {
        const auto want = one["logits"][first + static_cast<size_t>(row)].get<std::vector<float>>();
        for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(pass.result.logits.row(row)[i], want[i], 1e-4) << first + row;
      }
    };
    for (size_t i = 0; i < target.size(); ++i) {
      Pass pass;
      pass.compute = Compute::kF32;
      pass.kv = &kv;
      pass.memory = &memory;
      pass.Append(sequence, static_cast<int64_t>(i), {&target[i], 1}).memory = 0;
      pass.logit_rows = {0};
      served_.transformer.Forward(pass);
      CommitAll(pass);
      expect(pass, i);
    }
    Pass source_pass, pass;
    source_pass.encoder = true;
    source_pass.Append(0, 0, source);
    pass.compute = Compute::kF32;
    pass.source = &source_pass;
    pass.Append(0, 0, target);
    pass.logit_rows.resize(target.size());
    std::iota(pass.logit_rows.begin(), pass.logit_rows.end(), 0);
    served_.transformer.Forward(pass);
    expect(pass, 0);
  }
}

// The gradients of all parameters, by transformers' names.
std::map<std::string, std::vector<float>> Gradients(const std::string& path, const json& pairs, bool checkpoint) {
  ThreadPool pool(2);
  auto weights = LoadWeights(pool, path);
  const ModelConfig config = weights->config;
  Transformer transformer(std::move(weights), pool);
  GraftOptions options;
  options.working = DType::kF32;
  FullGraft full(options, transformer.base());
  std::vector<OwnedTensor> gradients;
  full.VisitParams([&](Parameter& param) {
    const Tensor& value = param.value;
    gradients.push_back(value.rank == 1 ? OwnedTensor({value.size()}) : OwnedTensor({value.rows(), value.columns()}));
    std::fill_n(gradients.back().view.f32(), gradients.back().view.size(), 0.0f);
    param.grad = gradients.back().view;
  });
  Graft* const grafts[] = {&full};
  Tape tape;
  Pass source, pass;
  source.encoder = true;
  pass.source = &source;
  pass.compute = Compute::kF32;
  pass.training.tape = &tape;
  pass.training.checkpoint = checkpoint;
  std::vector<int32_t> targets;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const Ids answer = pairs[i][1].get<Ids>();
    source.Append(static_cast<int>(i), 0, pairs[i][0].get<Ids>()).grafts = grafts;
    pass.Append(static_cast<int>(i), 0, std::span(answer).first(answer.size() - 1)).grafts = grafts;
    targets.insert(targets.end(), answer.begin() + 1, answer.end());
  }
  transformer.Forward(pass);
  Tensor dhidden = transformer.workspace().New({pass.rows(), config.hidden});
  LossHead(transformer, Compute::kF32, pass.result.hidden, targets,
           1.0f / static_cast<float>(targets.size()), dhidden, full.HeadGradient());
  transformer.Backward(pass, dhidden);
  EXPECT_TRUE(tape.empty());

  const TensorNames names = NamesOf(config, Dialect::kHuggingFace);
  const std::pair<NormKind, Role> norms[] = {{NormKind::kAttention, Role::kAttentionNorm},
                                             {NormKind::kFfn, Role::kFfnNorm},
                                             {NormKind::kCross, Role::kCrossNorm},
                                             {NormKind::kEmbedding, Role::kEmbeddingNorm}};
  const auto stem = [&](const std::string& name) -> std::string {
    const int64_t decoder = config.encoder_layers;
    if (name == "embedding") return names.Stem(Role::kEmbedding);
    if (name == "positions") return names.Stem(Role::kPositions, decoder);
    if (name == "encoder.positions") return names.Stem(Role::kPositions, 0);
    if (name == "embedding_norm") return names.Stem(Role::kEmbeddingNorm, decoder);
    if (name == "encoder.embedding_norm") return names.Stem(Role::kEmbeddingNorm, 0);
    const size_t dot = name.find('.', 7);
    const int64_t layer = std::stoll(name.substr(7, dot - 7));
    const std::string what = name.substr(dot + 1);
    for (const auto& [kind, role] : norms) {
      if (what == NormName(kind)) return names.Stem(role, layer);
    }
    for (int kind = 0; kind < kSiteKinds; ++kind) {
      const Site site{static_cast<int>(layer), static_cast<SiteKind>(kind)};
      if (what == SiteName(site.kind)) return names.Stem(RoleOf(config, site), layer);
    }
    return name;
  };
  std::map<std::string, std::vector<float>> named;
  full.VisitParams([&](Parameter& param) {
    const bool bias = param.name.ends_with(".bias");
    const std::string name = stem(bias ? param.name.substr(0, param.name.size() - 5) : param.name);
    named[name + (bias ? ".bias" : ".weight")].assign(param.grad.f32(), param.grad.f32() + param.grad.size());
  });
  return named;
}

TEST_P(Bart, GradientsAreThoseOfTransformers) {
  const std::string path = Golden("bart/") + GetParam();
  const json pairs = ReadJson(path + "/golden.json")["pairs"];
  const auto got = Gradients(path, pairs, false);
  const SafetensorsFile want(path + "/gradients.safetensors");
  EXPECT_EQ(got.size(), want.tensors().size());
  for (const NamedTensor& named : want.tensors()) {
    const auto found = got.find(named.name);
    ASSERT_NE(found, got.end()) << named.name;
    const Tensor tensor = *want.FindTensor(named.name);
    ASSERT_EQ(static_cast<int64_t>(found->second.size()), tensor.size()) << named.name;
    for (int64_t i = 0; i < tensor.size(); ++i) {
      ASSERT_NEAR(found->second[static_cast<size_t>(i)], tensor.as<float>()[i], 1e-4) << named.name << " " << i;
    }
  }
  EXPECT_EQ(Gradients(path, pairs, true), got) << "blocks that are run again";
}

TEST_P(Bart, GreedyAnswersAreThoseOfTransformers) {
  for (const json& one : cases_) {
    DecodeRequest request = served_.Request(one["source"].get<Ids>(), 20);
    EXPECT_EQ(Decode(served_, request).tokens, Answer(one["greedy"], 1));
    request.sampling.no_repeat_ngram = 2;
    EXPECT_EQ(Decode(served_, request).tokens, Answer(one["greedy_ngram"], 1));
  }
}

TEST_P(Bart, BeamsAreThoseOfTransformers) {
  for (const json& one : cases_) {
    for (const json& golden : one["beams"]) ExpectBeams(served_, one["source"].get<Ids>(), golden, 1);
  }
}

TEST_P(Bart, AnAnswerDoesNotKnowItsCompany) {
  std::vector<Ids> alone;
  for (size_t i = 0; i < 16; ++i) {
    Served one(Golden("bart/") + GetParam(), 1);
    alone.push_back(Decode(one, served_.Request(cases_[i % cases_.size()]["source"].get<Ids>(), 6 + 2 * static_cast<int64_t>(i % 3))).tokens);
  }
  std::vector<Ids> together(alone.size());
  for (size_t i = 0; i < alone.size(); ++i) {
    DecodeRequest request = served_.Request(cases_[i % cases_.size()]["source"].get<Ids>(), 6 + 2 * static_cast<int64_t>(i % 3));
    request.on_end = [&, i](const DecodeResult& result) { together[i] = result.tokens; };
    served_.scheduler->Add(std::move(request));
  }
  while (served_.scheduler->Step()) {
  }
  EXPECT_EQ(alone, together);
}

TEST_P(Bart, ASourceIsReadOnce) {
  const Ids source = cases_[1]["source"].get<Ids>();
  Decode(served_, served_.Request(source, 4));
  const int64_t used = served_.memory->stats().known;
  EXPECT_GT(used, 0);
  Decode(served_, served_.Request(source, 4));
  EXPECT_EQ(served_.memory->stats().known, used);
}

TEST_P(Bart, RefusesASourceThatDoesNotFit) {
  const auto why = [&](const Ids& source) -> std::string {
    try {
      Decode(served_, served_.Request(source, 4));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(why(Ids(64, 5)), "");
  EXPECT_EQ(why(Ids(65, 5)), "the source has 65 tokens, the encoder reads at most 64; shorten it");
  EXPECT_EQ(why({}), "the source is empty");
  EXPECT_EQ(why({5, 99}), "token id 99 is outside the vocabulary of 99");
}

INSTANTIATE_TEST_SUITE_P(Models, Bart, testing::Values("plain", "scaled"));

TEST(Beams, OfADecoderAreThoseOfTransformers) {
  const json golden = ReadJson(Golden("beams.json"));
  for (const auto& [family, cases] : golden.items()) {
    Served served(Golden("families/") + family);
    for (const json& one : cases) {
      const Ids prompt = one["prompt"].get<Ids>();
      for (const json& beams : one["beams"]) ExpectBeams(served, prompt, beams, prompt.size());
    }
  }
}

TEST(Beams, LeaveTheCacheAsItWas) {
  Served served(Golden("families/llama"));
  DecodeResult result;
  const DecodeRequest request = served.Request({5, 9, 20, 33}, 20);
  served.scheduler->Search(request, {.count = 4}, result);
  EXPECT_EQ(served.kv.stats().used, 0);
  EXPECT_EQ(served.kv.stats().sequences, 0);
}

}  // namespace
}  // namespace cambium
