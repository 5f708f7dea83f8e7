#pragma once

#include <string>
#include <vector>

#include "server/fields.h"

namespace cambium::server {

// What a body asks to be trained, as the options of `train` and `plan`. A field that is not known, of another type or
// out of range is refused by name.
struct TrainingRequest {
  std::string name, graft, data, valid;  // data and valid: the text of a file, as --data takes it
  std::vector<std::string> options;
};
TrainingRequest ReadTrainingRequest(const Fields& fields);

}  // namespace cambium::server
