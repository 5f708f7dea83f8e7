#pragma once

#include <string>

#include "cli/train_flags.h"

namespace cambium::cli {

// "62/81 40/63 ...": top-1 and top-5 accuracy by depth, in percent.
std::string ShortAccuracy(const HeadAccuracy& accuracy);

// What trained draft heads are good for: accuracy by depth on the validation data (else on the training data), the best
// tree for this machine's cost of a pass, and what that tree brings, expected and measured by generating. Printed, and
// written to heads_report.json; the tree to tree.json (see --draft medusa:tree=FILE).
void ReportHeads(TrainSession& session, const TrainFlags& flags);

}  // namespace cambium::cli
