#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "grafts/grafts.h"
#include "io/safetensors.h"
#include "model/heads.h"

namespace cambium {

// What draft heads of every kind are made of.

// The rows of the base's output head that belong to a draft vocabulary. The base, or its copy of some rows, is shared by
// all heads.
class DraftReadout {
 public:
  // ids: ascending base tokens; empty = the whole head, not copied. kData naming `what` for an id outside the vocabulary,
  // out of order, or a list without an end token of `end_tokens`.
  DraftReadout(const BaseModel& model, std::vector<int32_t> ids, std::span<const int32_t> end_tokens,
               const std::string& what);

  std::span<const int32_t> ids() const { return ids_; }
  const PackedMatrix& matrix() const { return rows_ ? rows_ : model_.weights().head(); }
  int64_t size() const { return matrix().out(); }

 private:
  const BaseModel& model_;
  std::vector<int32_t> ids_;
  PackedMatrix rows_;
};

// The rows `ids` of a matrix (empty: all), packed: 8 bits where `eight_bit` and rows are whole blocks, else f32.
PackedMatrix PackRows(ThreadPool& pool, Tensor rows, bool eight_bit);

// A trained matrix [out, in] as products take it: follows its parameter while training, 8 bits once frozen.
struct TrainedMatrix {
  TrainedMatrix(std::string name, int64_t out, int64_t in);
  void Pack(ThreadPool& pool, PackedMatrix& packed, bool frozen) const;
  // dw += dy^T x
  void AddGradient(const GraftContext& context, Tensor dy, Tensor x) const;
  OwnedTensor values;
  Parameter param;
};

// A trained vector [size].
struct TrainedVector {
  TrainedVector(std::string name, int64_t size, float fill);
  OwnedTensor values;
  Parameter param;
};

// y = x + SiLU(W x + b), with W and b zero at first (Cai et al., "Medusa", 2024).
class ResBlock {
 public:
  ResBlock(const std::string& name, int64_t width);
  void Forward(const GraftContext& context, Tensor x, Tensor y) const;  // y may not alias x
  // dy becomes the gradient of x.
  void Backward(const GraftContext& context, Tensor x, Tensor dy);
  void Pack(ThreadPool& pool, bool frozen) { weight.Pack(pool, packed_, frozen); }

  TrainedMatrix weight;
  TrainedVector bias;

 private:
  PackedMatrix packed_;
};

// heads.json beside the weights: what the weights' own format has no place for.
struct HeadsFile {
  std::string kind, base;
  int64_t hidden = 0, vocab = 0;        // of the base they were trained for
  std::vector<int32_t> draft_tokens;    // empty = all
  std::vector<int32_t> end_tokens;      // of the base's tokenizer
  nlohmann::json more = nlohmann::json::object();
};
// Writes the parameters to directory + weights (a safetensors file) and heads.json; kResource.
void SaveHeads(Graft& heads, const std::string& directory, const char* weights, const HeadsFile& file);
// kData naming file, field and both values where it is not for this model. An absent file gives defaults.
HeadsFile ReadHeadsFile(const std::string& directory, const BaseModel& model);

// Copies tensor `name` of the file to `into`; kData naming it and both shapes.
// The overload takes what a file holds under that name; null: kData.
void ReadHeadTensor(const std::string& path, const std::string& name, const Tensor* stored, Tensor into);
void ReadHeadTensor(const SafetensorsFile& file, const std::string& name, Tensor into);

}  // namespace cambium
