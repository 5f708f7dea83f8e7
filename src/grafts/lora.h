#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "families/family.h"
#include "grafts/grafts.h"

namespace cambium {

// y += scale * B (A dropout(x)) at linears of the base (Hu et al., "LoRA", 2021), in PEFT's or MLX's files or as a
// GGUF adapter.
// DoRA (Liu et al. 2024): the result's rows of W + scale B A are brought to a trained length, W x + scale B A x times
// magnitude / |W + scale B A|, the length taken as a constant by the gradient (their section 4.3).
// PiSSA (Meng et al. 2024): A and B begin as W's leading singular part, and what they began as is subtracted, so that the
// base stays as it is; saved as a plain LoRA of twice the rank.
class LoraGraft : public Graft {
 public:
  // A uniform in +-1/sqrt(in) (PEFT's Kaiming init), B zero; or PiSSA.
  LoraGraft(const GraftOptions& options, const BaseModel& model);
  static std::unique_ptr<Graft> Make(const GraftOptions& options, BaseModel& model);
  static bool Recognises(const std::string& path);
  static std::unique_ptr<Graft> Load(const std::string& path, const BaseModel& model, float scale);

  std::string kind() const override { return "lora"; }
  bool ActsAt(Site site) const override { return Find(site) != nullptr; }
  bool ActsAtExperts(int layer) const override { return at_experts_[static_cast<size_t>(layer)] != 0; }
  void AtLinear(const GraftContext& context, Site site, Tensor x, Tensor y) override;
  void AtLinearBackward(const GraftContext& context, Site site, Tensor x, Tensor dy, Tensor dx) override;
  void VisitParams(const std::function<void(Parameter&)>& visit) override;
  void AfterUpdate() override;
  int64_t LowestLayer() const override;
  bool mergeable() const override { return true; }
  void MergeInto(Site site, Tensor weight) override;
  void Save(const std::string& path) override;  // PEFT's directory, or a GGUF adapter where the path ends with .gguf

  void SaveMlx(const std::string& directory) const;  // as mlx-lm's

  // Terms y += b (a x), a [rank, in], b [out, rank], with nothing more to train than these.
  struct RawTerm {
    Site site;
    OwnedTensor a, b;
  };
  static std::unique_ptr<LoraGraft> FromTerms(const BaseModel& model, std::vector<RawTerm> terms, const std::string& base);

  // The sum of adapters of one base as one adapter: ranks stacked, which is exact; or cut to `rank` > 0 by the singular
  // values of each site's product, `kept` then being the share of their squares that stays. kUsage for DoRA.
  static std::unique_ptr<LoraGraft> Combine(std::span<const LoraGraft* const> parts, const BaseModel& model, int64_t rank,
                                            double* kept);

 private:
  // The low-rank term of one linear.
  struct Term {
    Site site;
    int64_t in, out, rank;
    float scale;  // of the product, as the file has it times what LoadGraft was asked for
    OwnedTensor a_values, b_values;    // [rank, in], [out, rank]
    OwnedTensor a_start, b_start;      // PiSSA: what A and B began as
    OwnedTensor magnitude_values;      // DoRA: [out]
    Parameter a, b, magnitude;

    // Made from the parameters when they are needed again.
    bool stale = true;
    OwnedTensor b_rows, b_start_rows;  // B and its start, transposed: [rank, out]
    OwnedTensor squares;               // DoRA: |W's row|^2 [out]
    OwnedTensor gain, inv_length;      // DoRA: magnitude / |W + scale B A|, and 1 / |W + scale B A| [out]
  };
  // A and B of a term as files have them: those of PiSSA with what they began as, A [rank, in], B [out, rank].
  struct Factors {
    Tensor a, b;
    OwnedTensor a_memory, b_memory;
  };
  static Factors FactorsOf(const Term& term);
  LoraGraft(const BaseModel& model, const GraftOptions& options, std::vector<std::unique_ptr<Term>> terms);
  static std::unique_ptr<Graft> LoadPeft(const std::string& path, const BaseModel& model, float effect);
  static std::unique_ptr<Graft> LoadGguf(const std::string& path, const BaseModel& model, float effect);
  static std::unique_ptr<Graft> LoadMlx(const std::string& path, const BaseModel& model, float effect);
  // What a file has for one tensor of the base, which may hold several sites' rows: the terms of all of them.
  struct FileTerm {
    std::string stem;
    Site site;       // the first
    float scale;     // of the product
    OwnedTensor a, b;  // [rank, in], [rows of the tensor, rank]
    OwnedTensor magnitude;  // DoRA: [rows of the tensor]
  };
  std::vector<FileTerm> FileTerms(Dialect dialect) const;
  FileTerm Joined(Dialect dialect, std::span<const std::unique_ptr<Term>> terms) const;
  void SavePeft(const std::string& path) const;
  void SaveGguf(const std::string& path) const;
  static std::unique_ptr<Term> MakeTerm(const BaseModel& model, Site site, int64_t rank, float scale);
  static void AddMagnitude(const BaseModel& model, Term& term);  // DoRA: the lengths of W's rows
  void StartFromSingularVectors();  // PiSSA
  size_t Index(Site site) const;  // of all sites that the model's configuration could have
  Term* Find(Site site) const { return by_site_[Index(site)]; }
  static const Linear& Base(const BaseModel& model, Site site) {
    return model.weights().At(site);
  }
  void IndexTerms();
  void Refresh(ThreadPool& pool, Term& term);
  void Pack(ThreadPool& pool);
  // x with dropout's zeros, or x itself when there is none.
  bool Drops(const GraftContext& context) const { return context.noise != 0 && options_.dropout != 0; }
  Tensor Dropped(const GraftContext& context, const Term& term, Tensor x) const;
  void MaskGradient(const GraftContext& context, const Term& term, Tensor dx) const;
  // y += scale B A x
  void AddTerm(const GraftContext& context, const Term& term, Tensor x, Tensor y) const;
  // W x [rows, out], without the bias.
  Tensor BaseProduct(const GraftContext& context, const Term& term, Tensor x) const;

  const BaseModel& model_;
  GraftOptions options_;
  std::vector<std::unique_ptr<Term>> terms_;  // by layer, then kind
  std::vector<Term*> by_site_;
  std::vector<uint8_t> at_experts_;  // by layer: whether a term is an expert's
  // All terms one behind the other, as a pass reads them, for rows whose activations are in 8 bits: eight adapters in
  // fp32 weigh as much as a small base in 4 bits. Empty: not made yet.
  OwnedTensor packed_memory_;
  std::vector<PackedLowRank> packed_;  // by site; what is not plain LoRA (DoRA, PiSSA) has none
};

}  // namespace cambium
