// The rows of [train].
#include "app/option_rows.h"

namespace elaswave::app {
namespace {

void add_batch(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  table.push_back({"train.seed",
                   field<kTrain, &T::seed>,
                   "",
                   seeds(),
                   {},
                   ResumeClass::refuse,
                   "of initial weights, sample order and dropout"});
  table.push_back({"train.steps",
                   field<kTrain, &T::steps>,
                   "steps",
                   at_least(1),
                   {},
                   ResumeClass::free,
                   "when to stop, nothing else (but see decay_steps)"});
  table.push_back({"train.stop_at",
                   field<kTrain, &T::stop_at>,
                   "steps",
                   at_least(0),
                   {},
                   ResumeClass::free,
                   "stop after this step as if asked to, exit code 75; 0: never"});
  table.push_back({"train.micro_batch",
                   field<kTrain, &T::micro_batch>,
                   "samples",
                   between(1, 1'000'000),
                   {},
                   ResumeClass::warn,
                   "what the kernels see at once"});
  table.push_back({"train.global_batch",
                   field<kTrain, &T::global_batch>,
                   "samples",
                   between(1, 1'000'000'000),
                   {},
                   ResumeClass::warn,
                   "of one step, a multiple of micro_batch"});
}

void add_schedule(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  const auto warn = ResumeClass::warn;
  table.push_back(
      {"train.lr", field<kTrain, &T::lr>, "", above(0), {}, warn, "peak learning rate"});
  table.push_back({"train.min_lr",
                   field<kTrain, &T::min_lr>,
                   "",
                   at_least(0),
                   {},
                   warn,
                   "learning rate at the end of the decay"});
  table.push_back({"train.lr_schedule",
                   field<kTrain, &T::lr_schedule>,
                   "",
                   {},
                   {"cosine", "wsd", "linear", "constant"},
                   warn,
                   "shape of the decay after warm-up (wsd: warm-up, stable, decay)"});
  table.push_back({"train.warmup_steps",
                   field<kTrain, &T::warmup_steps>,
                   "steps",
                   at_least(0),
                   {},
                   warn,
                   "linear warm-up from 0 to lr"});
  table.push_back({"train.decay_steps",
                   field<kTrain, &T::decay_steps>,
                   "steps",
                   at_least(0),
                   {},
                   warn,
                   "the schedule's horizon; 0: train.steps"});
  table.push_back({"train.wsd_decay_fraction",
                   field<kTrain, &T::wsd_decay_fraction>,
                   "",
                   between(0, 1),
                   {},
                   warn,
                   "share of the horizon that wsd spends decaying"});
}

void add_optimizer(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  const auto warn = ResumeClass::warn;
  table.push_back({"train.weight_decay",
                   field<kTrain, &T::weight_decay>,
                   "",
                   at_least(0),
                   {},
                   warn,
                   "of matrices; vectors do not decay"});
  table.push_back({"train.beta1",
                   field<kTrain, &T::beta1>,
                   "",
                   below(0, 1),
                   {},
                   warn,
                   "AdamW, decay of the first moment"});
  table.push_back({"train.beta2",
                   field<kTrain, &T::beta2>,
                   "",
                   below(0, 1),
                   {},
                   warn,
                   "AdamW, decay of the second moment"});
  table.push_back({"train.epsilon",
                   field<kTrain, &T::epsilon>,
                   "",
                   above(0),
                   {},
                   warn,
                   "AdamW, added to the root of the second moment"});
  table.push_back({"train.clip",
                   field<kTrain, &T::clip>,
                   "",
                   at_least(0),
                   {},
                   warn,
                   "largest global gradient norm; 0: no clipping"});
  table.push_back({"train.non_finite",
                   field<kTrain, &T::non_finite>,
                   "",
                   {},
                   {"stop", "skip"},
                   warn,
                   "what to do when loss or gradient leave the finite range"});
}

void add_validation(std::vector<Option>& table) {
  using T = Config::Train;
  constexpr auto kTrain = &Config::train;
  table.push_back({"train.val_every",
                   field<kTrain, &T::val_every>,
                   "steps",
                   at_least(0),
                   {},
                   ResumeClass::warn,
                   "between validations; 0: never (but see val_last)"});
  table.push_back({"train.val_batches",
                   field<kTrain, &T::val_batches>,
                   "micro-batches",
                   at_least(0),
                   {},
                   ResumeClass::warn,
                   "of one validation; 0: all whole micro-batches of data.val"});
  table.push_back({"train.val_last",
                   field<kTrain, &T::val_last>,
                   "",
                   {},
                   {},
                   ResumeClass::warn,
                   "validate after the last step when data.val is given"});
  table.push_back({"train.dump_state",
                   field<kTrain, &T::dump_state>,
                   "",
                   {},
                   {},
                   ResumeClass::free,
                   "write the final state to this HDF5 file; empty: do not"});
  table.push_back({"train.fresh",
                   field<kTrain, &T::fresh>,
                   "",
                   {},
                   {},
                   ResumeClass::free,
                   "start at step 0; checkpoints that are there are renamed out of the way"});
}

void add_memory(std::vector<Option>& table) {
  table.push_back({"train.precision",
                   field<&Config::train, &Config::Train::precision>,
                   "",
                   {},
                   {"f32", "bf16"},
                   ResumeClass::warn,
                   "of activations and matrices; arithmetic, master weights, moments and sums are "
                   "f32"});
  table.push_back({"train.recompute",
                   field<&Config::train, &Config::Train::recompute>,
                   "",
                   {},
                   {"none", "selective", "full"},
                   ResumeClass::free,
                   "activations computed again in backward: none, norms and GELU, or all"});
}

}  // namespace

void add_train(std::vector<Option>& table) {
  add_batch(table);
  add_schedule(table);
  add_optimizer(table);
  add_validation(table);
  add_memory(table);
}

}  // namespace elaswave::app
