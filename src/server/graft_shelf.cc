#include "server/graft_shelf.h"

#include <algorithm>
#include <ctime>
#include <mutex>

namespace cambium::server {

GraftShelf::Entry GraftShelf::Find(const std::string& name) const {
  const std::shared_lock lock(mutex_);
  const auto found = std::ranges::find_if(entries_, [&](const Entry& entry) { return entry->name == name; });
  return found == entries_.end() ? nullptr : *found;
}

std::vector<GraftShelf::Entry> GraftShelf::List() const {
  const std::shared_lock lock(mutex_);
  return entries_;
}

bool GraftShelf::Load(const Model& model, const std::string& name, const std::string& path, float scale, bool replace) {
  if (!replace && Find(name) != nullptr) return false;
  const Adapter adapter = Adapter::Load(model, path);
  Entry entry(new ServedGraft{name, path, scale, std::time(nullptr), adapter.kinds(), adapter});
  const std::unique_lock lock(mutex_);
  const auto found = std::ranges::find_if(entries_, [&](const Entry& other) { return other->name == name; });
  if (found == entries_.end()) {
    entries_.push_back(std::move(entry));
  } else if (replace) {
    *found = std::move(entry);
  } else {
    return false;
  }
  return true;
}

void GraftShelf::Unload() {
  const std::unique_lock lock(mutex_);
  for (Entry& entry : entries_) {
    ServedGraft asleep = *entry;
    asleep.adapter.reset();
    entry = std::make_shared<const ServedGraft>(std::move(asleep));
  }
}

void GraftShelf::Reload(const Model& model) {
  std::vector<Entry> loaded;
  for (const Entry& entry : List()) {
    ServedGraft awake = *entry;
    awake.adapter = Adapter::Load(model, entry->path);
    loaded.push_back(std::make_shared<const ServedGraft>(std::move(awake)));
  }
  const std::unique_lock lock(mutex_);
  entries_ = std::move(loaded);
}

bool GraftShelf::Remove(const std::string& name) {
  const std::unique_lock lock(mutex_);
  return std::erase_if(entries_, [&](const Entry& entry) { return entry->name == name; }) > 0;
}

}  // namespace cambium::server
