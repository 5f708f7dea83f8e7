// What grafts cost in decoding: one sequence with each kind against none, and eight sequences with eight grafts against
// eight with one. The variants of a table alternate, pass by pass; ratios are medians over the rounds.
//   graft_bench MODEL [threads] [rounds]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/isa.h"
#include "base/random.h"
#include "grafts/grafts.h"

namespace cambium {
namespace {

constexpr int64_t kContext = 128;  // tokens before the first timed pass
constexpr int64_t kPasses = 32;    // timed in a round
constexpr int64_t kRank = 8, kLength = 32;

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// A graft whose parameters are all random, as after training.
std::unique_ptr<Graft> Random(const std::string& kind, const std::string& variant, Transformer& model, uint64_t seed) {
  GraftOptions options;
  options.rank = kRank;
  options.length = kLength;
  options.variant = variant;
  if (kind == "lora" && variant == "qv") options.targets = {"q_proj", "v_proj"};
  options.prefix_init = "random";
  options.seed = seed;
  std::unique_ptr<Graft> graft = MakeGraft(kind, options, model.base());
  const Philox noise(seed);
  uint64_t stream = 0;
  graft->VisitParams([&](Parameter& p) {
    ++stream;
    for (int64_t i = 0; i < p.value.size(); ++i) {
      p.value.f32()[i] += 0.01f * static_cast<float>(noise.Uniform(static_cast<uint64_t>(i), stream) - 0.5);
    }
  });
  graft->AfterUpdate();
  return graft;
}

using Stack = std::vector<Graft*>;
struct Variant {
  std::string name;
  std::vector<Stack> sequences;
};

// Times decoding passes of one row a sequence, with logits.
class Decoder {
 public:
  Decoder(Transformer& model, const Variant& variant)
      : model_(model),
        variant_(variant),
        kv_(model.config(), DType::kF16,
            static_cast<int64_t>(variant.sequences.size()) * (kLength + kContext + kPasses + 64)) {
    for (size_t i = 0; i < variant.sequences.size(); ++i) sequences_.push_back(kv_.Open());
  }
  void Restart() {
    std::vector<int32_t> text;
    for (int32_t i = 0; i < kContext; ++i) text.push_back(100 + i * 37 % 1000);
    for (size_t i = 0; i < sequences_.size(); ++i) {
      model_.BeginSequence(kv_, sequences_[i], variant_.sequences[i]);
      Run(i, i + 1, text, false);
    }
  }
  double PassMs() {
    const auto start = std::chrono::steady_clock::now();
    Run(0, sequences_.size(), std::vector<int32_t>{42}, true);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  void Run(size_t begin, size_t end, const std::vector<int32_t>& tokens, bool logits) {
    Pass pass;
    pass.kv = &kv_;
    for (size_t i = begin; i < end; ++i) {
      pass.Append(sequences_[i], kv_.length(sequences_[i]), tokens).grafts = variant_.sequences[i];
      if (logits) pass.logit_rows.push_back(static_cast<int32_t>(pass.rows()) - 1);
    }
    model_.Forward(pass);
    CommitAll(pass);
  }
  Transformer& model_;
  const Variant& variant_;
  KvCache kv_;
  std::vector<KvCache::Id> sequences_;
};

void Compare(Transformer& model, const std::vector<Variant>& variants, int rounds) {
  std::vector<std::unique_ptr<Decoder>> decoders;
  for (const Variant& variant : variants) decoders.push_back(std::make_unique<Decoder>(model, variant));
  std::vector<std::vector<double>> ms(variants.size());
  for (int round = -1; round < rounds; ++round) {  // -1 warms up
    std::vector<std::vector<double>> passes(variants.size());
    for (auto& decoder : decoders) decoder->Restart();
    for (int64_t pass = 0; pass < kPasses; ++pass) {
      for (size_t i = 0; i < variants.size(); ++i) passes[i].push_back(decoders[i]->PassMs());
    }
    for (size_t i = 0; round >= 0 && i < variants.size(); ++i) ms[i].push_back(Median(passes[i]));
  }
  for (size_t i = 0; i < variants.size(); ++i) {
    std::vector<double> ratios;
    for (size_t round = 0; round < ms[i].size(); ++round) ratios.push_back(ms[0][round] / ms[i][round]);
    const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
    std::printf("%-44s %7.2f ms a pass, %7.1f tokens/s, %.3f of the first [%.3f .. %.3f]\n", variants[i].name.c_str(),
                Median(ms[i]), 1000 * static_cast<double>(variants[i].sequences.size()) / Median(ms[i]), Median(ratios),
                *low, *high);
  }
  std::printf("\n");
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: graft_bench MODEL [threads] [rounds]\n");
    return 2;
  }
  ApplyIsaFromEnv();
  ThreadPool pool(argc > 2 ? std::atoi(argv[2]) : DefaultThreads());
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 7;
  Transformer model(LoadWeights(pool, argv[1]), pool);
  std::vector<std::unique_ptr<Graft>> owned;
  const auto make = [&](const std::string& kind, const std::string& variant = "pfeiffer") {
    owned.push_back(Random(kind, variant, model, owned.size() + 1));
    return owned.back().get();
  };
  const auto eight = [&](const std::function<Graft*()>& of) {
    std::vector<Stack> stacks;
    for (int i = 0; i < 8; ++i) stacks.push_back({of()});
    return stacks;
  };

  std::printf("one sequence behind %d tokens\n", static_cast<int>(kContext));
  Compare(model,
          {{"none", {Stack{}}},
           {"prefix of 32", {{make("prefix")}}},
           {"prompt of 32", {{make("prompt")}}},
           {"LoRA r=8 on all linears", {{make("lora")}}},
           {"IA3", {{make("ia3")}}},
           {"Pfeiffer adapter, hidden / 16", {{make("adapter")}}},
           {"Houlsby adapter, hidden / 16", {{make("adapter", "houlsby")}}}},
          rounds);
  struct Kind {
    const char *name, *kind, *variant;
  };
  for (const Kind& k : {Kind{"prefix of 32", "prefix", "pfeiffer"}, Kind{"LoRA r=8 on q and v", "lora", "qv"},
                        Kind{"LoRA r=8 on all linears", "lora", "all"},
                        Kind{"Pfeiffer adapter, hidden / 16", "adapter", "pfeiffer"}}) {
    Graft* const one = make(k.kind, k.variant);
    std::printf("eight sequences, %s\n", k.name);
    Compare(model,
            {{"all with one", eight([&] { return one; })},
             {"each its own", eight([&] { return make(k.kind, k.variant); })},
             {"none", std::vector<Stack>(8)}},
            rounds);
  }
  return 0;
}

}  // namespace
}  // namespace cambium

int main(int argc, char** argv) {
  try {
    return cambium::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
