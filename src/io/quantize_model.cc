#include "io/quantize_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>

#include "base/check.h"
#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "tensor/quantize.h"

namespace cambium {
namespace {

constexpr DType kTargets[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                              DType::kQ4_0, DType::kQ4_1, DType::kQ4_K};

// general.file_type: llama.cpp's number for a file that is mostly of this type.
uint32_t FileType(DType type) {
  switch (type) {
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ4_K:
      return 14;
    case DType::kBF16:
      return 32;
    default:
      return 0;
  }
}

// A matrix, or an expert's each; a mixture's router stays as exact as it is, as a choice hangs on it.
bool IsMatrix(const NamedTensor& tensor) {
  const size_t rank = tensor.shape.size();
  return (rank == 2 || rank == 3) && tensor.shape[rank - 2] > 1 && tensor.name.ends_with(".weight") &&
         tensor.name.find("norm") == std::string::npos && tensor.name.find("ffn_gate_inp") == std::string::npos &&
         tensor.name != "position_embd.weight";
}

DType TypeOf(const GgufFile& file, const NamedTensor& tensor, DType wanted) {
  if (!IsMatrix(tensor)) return tensor.view.dtype == DType::kI32 ? DType::kI32 : DType::kF32;
  const bool tied = file.FindTensor("output.weight") == nullptr;
  const bool head = tensor.name == "output.weight" || (tied && tensor.name == "token_embd.weight");
  const DType first = head && Info(wanted).bytes < Info(wanted).block ? DType::kQ8_0 : wanted;
  for (DType type : {first, DType::kQ4_1, DType::kQ8_0}) {
    if (tensor.shape.back() % Info(type).block == 0) return type;
  }
  return DType::kF16;
}

}  // namespace

DType ParseQuantizeType(const std::string& name) {
  std::string upper = name, list;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return c < 128 ? std::toupper(c) : c; });
  for (DType type : kTargets) {
    if (upper == Info(type).name) return type;
    list += (list.empty() ? "" : ", ") + std::string(Info(type).name);
  }
  Fail(ErrorCode::kUsage, "type ", name, " is not one of ", list);
}

QuantizeReport QuantizeModel(ThreadPool& pool, const std::string& in, const std::string& out, DType type,
                             bool requantize, const std::function<void(uint64_t done, uint64_t total)>& progress) {
  std::error_code ignored;
  if (std::filesystem::is_directory(in, ignored)) {
    Fail(ErrorCode::kUsage, in, ": is a directory; `convert` makes a GGUF file of it first");
  }
  const GgufFile file(in);
  GgufWriter writer;
  for (const auto& [key, value] : file.metadata()) writer.Set(key, value);
  writer.Set("general.file_type", FileType(type));
  writer.Set("general.quantization_version", uint32_t{2});

  QuantizeReport report;
  for (const NamedTensor& tensor : file.tensors()) {
    const Tensor* view = IsMatrix(tensor) ? file.FindTensor(tensor.name) : file.FindStored(tensor.name);
    const DType target = TypeOf(file, tensor, type);
    report.bytes_in += tensor.bytes;
    if (target == view->dtype) {
      report.converted += target == type;
      report.bytes_out += tensor.bytes;
      writer.AddTensor(tensor.name, *view);
      continue;
    }
    if (IsQuantized(view->dtype) && !requantize) {
      Fail(ErrorCode::kUsage, in, ": tensor ", tensor.name, " is ", tensor.type,
           " already; --allow-requantize encodes it again, at a loss");
    }
    (target == type ? report.converted : report.fallback) += IsMatrix(tensor);
    report.bytes_out += static_cast<uint64_t>(view->size() / Info(target).block * Info(target).bytes);
    writer.AddTensor(tensor.name, target, tensor.shape, [&, view, target](int64_t row, int64_t rows, uint8_t* dst) {
      const int64_t columns = view->columns(), row_bytes = columns / Info(target).block * Info(target).bytes;
      std::atomic<bool> finite{true};
      pool.Run(rows, [&](int64_t r, int) {
        thread_local std::vector<float> values;
        values.resize(static_cast<size_t>(columns));
        Dequantize(view->dtype, view->as<uint8_t>() + (row + r) * view->row_bytes(), values.data(), columns);
        if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); })) finite = false;
        Quantize(target, values.data(), dst + r * row_bytes, columns);
      });
      if (!finite) Fail(ErrorCode::kData, in, ": tensor ", tensor.name, " holds NaN or Inf");
      file.Evict(*view, row, rows);
    });
  }
  writer.Write(out, [&](uint64_t done, uint64_t total) {
    file.CheckIntact();
    if (progress) progress(done, total);
  });
  return report;
}

}  // namespace cambium
