"""Evaluation: what a trained model is worth."""

from keras_textdiff.evaluation.bleu import bleu
from keras_textdiff.evaluation.code_problem import code_problem
from keras_textdiff.evaluation.code_task import CodeTask
from keras_textdiff.evaluation.cross_entropy_task import CrossEntropyTask
from keras_textdiff.evaluation.denoiser_cross_entropy import denoiser_cross_entropy
from keras_textdiff.evaluation.evaluate import evaluate
from keras_textdiff.evaluation.evaluation_report import EvaluationReport
from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult
from keras_textdiff.evaluation.likelihood_bound import likelihood_bound
from keras_textdiff.evaluation.likelihood_task import LikelihoodTask
from keras_textdiff.evaluation.log_likelihood import log_likelihood
from keras_textdiff.evaluation.pass_at_k import pass_at_k
from keras_textdiff.evaluation.question_answering_task import QuestionAnsweringTask
from keras_textdiff.evaluation.read_examples import read_examples
from keras_textdiff.evaluation.sandbox.sandbox import Sandbox
from keras_textdiff.evaluation.sandbox.sandbox_result import SandboxResult
from keras_textdiff.evaluation.sandbox.sandbox_unavailable import SandboxUnavailable
from keras_textdiff.evaluation.squad_scores import squad_scores
from keras_textdiff.evaluation.translation_task import TranslationTask

__all__ = [
    "CodeTask",
    "CrossEntropyTask",
    "EvaluationReport",
    "EvaluationTask",
    "LikelihoodTask",
    "QuestionAnsweringTask",
    "Sandbox",
    "SandboxResult",
    "SandboxUnavailable",
    "TaskResult",
    "TranslationTask",
    "bleu",
    "code_problem",
    "denoiser_cross_entropy",
    "evaluate",
    "likelihood_bound",
    "log_likelihood",
    "pass_at_k",
    "read_examples",
    "squad_scores",
]
