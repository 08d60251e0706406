// The keys of chaos.*: faults on purpose, for tests and for people who want to see a recovery.
#include "app/option_rows.h"

namespace elaswave::app {
namespace {

Option fault_row(std::string key, Field (*field)(Config&), std::string help) {
  return {std::move(key), field, "", {}, {}, ResumeClass::free, std::move(help)};
}

}  // namespace

void add_chaos(std::vector<Option>& table) {
  using C = Config::Chaos;
  constexpr auto kChaos = &Config::chaos;
  table.push_back(fault_row("chaos.kill", field<kChaos, &C::kill>,
                            "rank=3,step=5[,point=NAME][,at=K]: a rank kills itself there; also "
                            "ranks=1+2, domain=NAME, rank=any"));
  table.push_back(fault_row("chaos.stop", field<kChaos, &C::stop>,
                            "as chaos.kill, but it stops until a SIGCONT comes from outside"));
  table.push_back(fault_row("chaos.exit", field<kChaos, &C::exit>,
                            "as chaos.kill, but it leaves without a word; code=70"));
  table.push_back(fault_row("chaos.hang", field<kChaos, &C::hang>,
                            "as chaos.kill, but the thread that is there sleeps for ever"));
  table.push_back(fault_row("chaos.slow", field<kChaos, &C::slow>,
                            "rank=3,step=5,factor=2.5[,until=9]: its actions take longer"));
  table.push_back(fault_row("chaos.cut", field<kChaos, &C::cut>,
                            "a=0+1,b=2+3,step=5[,ms=500][,until=9]: nothing gets from one side to "
                            "the other"));
  table.push_back(fault_row("chaos.corrupt", field<kChaos, &C::corrupt>,
                            "what=message or what=copy,rank=3,step=5[,at=K]: a bit of a message "
                            "that is sent, or of a copy that is kept, flips"));
  table.push_back(fault_row("chaos.random", field<kChaos, &C::random>,
                            "seed=1,rate=0.01[,kinds=kill+stop+exit]: for every rank and step"));
}

}  // namespace elaswave::app
