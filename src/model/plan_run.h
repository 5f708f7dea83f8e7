#pragma once

#include "model/block.h"

namespace cambium {

// Lays out a pass: whose pages its segments read and write, and which neighbouring rows carry the same grafts. Slots of
// the cache are grown. `source`: the encoder's run that a decoder's is trained with.
BlockRun PlanRun(const ModelConfig& config, ThreadPool& pool, Workspace& workspace, Pass& pass, BlockRun* source);

// Whether the graft ranges of a serving pass may run side by side, each on one thread.
bool RangesApart(const BlockRun& run);

}  // namespace cambium
