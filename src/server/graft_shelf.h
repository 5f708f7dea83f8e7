#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "cambium/cambium.h"

namespace cambium::server {

// A graft under the name that requests call it by.
struct ServedGraft {
  std::string name, path;
  float scale;  // where a request does not say
  int64_t created;
  std::vector<std::string> kinds;
  std::optional<Adapter> adapter;  // none while the model is not loaded
};

// The grafts that are served now. Safe from any thread; a graft that is taken away lives on in the requests that use
// it.
class GraftShelf {
 public:
  using Entry = std::shared_ptr<const ServedGraft>;

  Entry Find(const std::string& name) const;  // null where there is none
  std::vector<Entry> List() const;            // in the order in which they came
  // Reads the files first, so that a bad one changes nothing. False where the name is taken and `replace` is not set.
  bool Load(const Model& model, const std::string& name, const std::string& path, float scale, bool replace);
  bool Remove(const std::string& name);
  // Lets go of what was loaded, and loads it again: onto a model that was loaded again.
  void Unload();
  void Reload(const Model& model);

 private:
  mutable std::shared_mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace cambium::server
