// `elaswave train`: settings from all sources, then the run.
#include <cstdio>

#include "app/commands.h"
#include "app/exit_report.h"
#include "app/options.h"
#include "app/train.h"

namespace elaswave::app {

Result<int> train_command(Arguments arguments) {
  EW_ASSIGN(const TrainCommand command, parse_train(arguments, elaswave_environment()));
  if (command.wish == TrainWish::run) return run_train(command.settings);
  // Under a launcher one copy is enough.
  if (launched_as().world_rank == 0)
    std::fputs(
        (command.wish == TrainWish::help ? train_help() : config_toml(command.settings)).c_str(),
        stdout);
  return 0;
}

}  // namespace elaswave::app
