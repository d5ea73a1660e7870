//! `--class`, `--route` and `--class-arg`: classes of workers, and who is sent to which.

use everycore::{Class, Policy, Route};

use crate::args::Run;
use crate::args::value::{ClassArg, ClassFlag, RouteFlag};
use crate::exit::Failure;

/// What was typed about classes; fits together with the rest of what was typed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classes {
    classes: Vec<ClassFlag>,
    routes: Vec<RouteFlag>,
    args: Vec<ClassArg>,
}

impl Classes {
    /// `None` where nothing was typed about classes.
    pub(crate) fn of(run: &Run) -> Result<Option<Self>, Failure> {
        let classes =
            Self { classes: run.class.clone(), routes: run.route.clone(), args: run.class_arg.clone() };
        if classes.classes.is_empty() {
            let asked = match (run.policy, classes.routes.first(), classes.args.first()) {
                (Some(Policy::Route), ..) => "--policy route",
                (_, Some(_), _) => "--route",
                (_, _, Some(_)) => "--class-arg",
                _ => return Ok(None),
            };
            return Err(Failure::usage(format!(
                "{asked} needs classes of workers; add --class NAME=N for each, and --route RULE=CLASS for all but the first"
            )));
        }
        if let Some(policy) = run.policy.filter(|policy| *policy != Policy::Route) {
            return Err(Failure::usage(format!(
                "--class goes with --policy route, not with {policy}; a class has a policy of its own: --class NAME=N,policy={policy}"
            )));
        }
        if run.workers.is_some() {
            return Err(Failure::usage(
                "--workers cannot be beside --class: each class says how many workers it has; leave --workers out",
            ));
        }
        if let Some(arg) =
            classes.args.iter().find(|arg| !classes.classes.iter().any(|c| c.name == arg.class))
        {
            let names: Vec<_> = classes.classes.iter().map(|class| class.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "--class-arg: no class is called '{}'; there are {}",
                arg.class,
                names.join(", ")
            )));
        }
        Ok(Some(classes))
    }

    /// Workers of all classes together.
    pub(crate) fn workers(&self) -> usize {
        self.classes.iter().map(|class| class.workers as usize).sum()
    }

    /// The same, as the library takes it.
    pub(crate) fn route(&self) -> Result<Route, Failure> {
        let route = self.classes.iter().fold(Route::new(), |route, flag| {
            let class =
                Class::new(&flag.name, flag.workers).policy(flag.policy).when_full(flag.when_full.clone());
            let args = self.args.iter().filter(|arg| arg.class == flag.name);
            route.class(args.fold(class, |class, arg| class.arg(&arg.arg)))
        });
        Ok(self.routes.iter().try_fold(route, |route, flag| route.rule(&flag.rule, &flag.class))?)
    }
}
