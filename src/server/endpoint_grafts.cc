#include <filesystem>

#include "server/endpoints.h"
#include "server/fields.h"

namespace cambium::server {
namespace {

namespace fs = std::filesystem;

// The path below the directory that grafts may be loaded from, links followed.
fs::path Confined(const std::string& given, const std::string& directory) {
  std::error_code error;
  const fs::path root = fs::canonical(directory, error);
  if (error) throw ApiError{500, "the directory of --allow-load cannot be read", "", ""};
  const fs::path path = fs::weakly_canonical(root / given, error);
  const bool inside = !error && std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
  if (!inside) throw ApiError{403, "lora_path leads out of the directory of --allow-load", "lora_path", "not_allowed"};
  // Opening a pipe or a device could wait for ever.
  if (!fs::is_directory(path, error) && !fs::is_regular_file(path, error))
    throw ApiError{404, "lora_path: there is no such file or directory", "lora_path", "not_found"};
  return path;
}

std::string NameOf(const Fields& fields) {
  const auto name = fields.Text("lora_name");
  if (!name || name->empty()) Refuse("lora_name", "lora_name is missing");
  const auto visible = [](char c) { return static_cast<unsigned char>(c) > 0x20 && c != 0x7f; };
  if (name->size() > 200 || !std::all_of(name->begin(), name->end(), visible)) {
    Refuse("lora_name", "lora_name has more than 200 bytes, spaces or control characters");
  }
  return *name;
}

}  // namespace

void LoadGraft(Call& call) {
  Service& service = call.service;
  if (service.options.load_from.empty())
    throw ApiError{403, "loading is off; --allow-load DIR allows it", "", "not_allowed"};
  const Json body = ParseBody(call.request.body);
  const Fields fields(body);
  const std::string name = NameOf(fields);
  const auto given = fields.Text("lora_path");
  if (!given || given->empty() || given->find('\0') != given->npos) Refuse("lora_path", "lora_path is missing");
  if (name == service.options.name) Refuse("lora_name", "lora_name is the base model's name");
  const bool replace = fields.Bool("load_inplace").value_or(false);
  if (!replace && service.grafts.Find(name) != nullptr) {
    Refuse("lora_name", "the graft `" + name + "` has already been loaded");
  }
  const fs::path path = Confined(*given, service.options.load_from);
  try {
    service.grafts.Load(service.model(), name, path.string(), 1, replace);
  } catch (const Error& error) {
    throw ApiError{400, error.what(), "lora_path", "bad_graft"};
  }
  call.reply->Send({200, Dump("Success: LoRA adapter '" + name + "' added successfully.")});
}

void UnloadGraft(Call& call) {
  if (call.service.options.load_from.empty())
    throw ApiError{403, "unloading is off; --allow-load DIR allows it", "", "not_allowed"};
  const Json body = ParseBody(call.request.body);
  const std::string name = NameOf(Fields(body));
  if (!call.service.grafts.Remove(name)) {
    throw ApiError{404, "the graft `" + name + "` is not loaded", "lora_name", "model_not_found"};
  }
  call.reply->Send({200, Dump("Success: LoRA adapter '" + name + "' removed successfully.")});
}

}  // namespace cambium::server
